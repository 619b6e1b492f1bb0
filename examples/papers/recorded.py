"""What the searches of `paper_search.yaml` note of each trained network, beside what a search measures of its own.

The share of images that are misclassified, of the training, the validation and the test images; and the adversarial error on
test images under a one-step and a many-step attack, at several multiples of the search's epsilon. Nothing of it is seen by
the search: it is for the analysis afterwards (`architecture_search.py`, `generalisation.py`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from evaluators import FGSM, PGD, error_at, logits_of, margin, radii
from nas.data import open_test

if TYPE_CHECKING:
    from torch import nn

    from nas.config import Config, DataConfig
    from nas.data import Dataset, Split

# Of the search's epsilon.
MULTIPLES = (0.25, 0.5, 1.0, 2.0)
ATTACKS = {"one_step": FGSM(), "many_steps": PGD(steps=10, loss=margin)}


def errors(network: nn.Module, data: Dataset, config: Config) -> dict[str, float]:
    """Returns clean and adversarial errors by name, `one_step@2` for FGSM at twice the search's epsilon."""
    count, epsilon = config.evaluation.images, config.evaluation.epsilon
    test = _test(config.data).first(count).to(data.train.x.device)
    splits = {"train": data.train.first(count), "validation": data.validation.first(count), "test": test}
    found = {f"{name}_error": _clean_error(network, split) for name, split in splits.items()}
    for name, attack in ATTACKS.items():
        sizes = radii(network, test.x, test.y, attack, [multiple * epsilon for multiple in MULTIPLES], seed=config.seed)
        found |= {f"{name}@{multiple:g}": error_at(sizes.numpy(), multiple * epsilon) for multiple in MULTIPLES}
    return found


@functools.cache
def _test(config: DataConfig) -> Split:
    return open_test(config)


def _clean_error(network: nn.Module, split: Split) -> float:
    return float((logits_of(network, split.x).argmax(1) != split.y.cpu().numpy()).mean())
