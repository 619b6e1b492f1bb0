"""Image sources and splits."""

from nas.data.dataset import Dataset, Split, check_test, class_names, open_data, open_test, split_at_random
from nas.data.sources import SOURCES

__all__ = ["SOURCES", "Dataset", "Split", "check_test", "class_names", "open_data", "open_test", "split_at_random"]
