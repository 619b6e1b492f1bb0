"""Additional metrics of each trained network in the searches of `paper_search.yaml`.

The metrics are the clean errors on all training, validation and test images, and errors under attack. The attacks are a
one-step and a many-step attack on the first `evaluation.images` test images, at several multiples of the search's epsilon.
Both the adversarial error and the flip rate (the adversarial error among correctly classified images) are recorded. The
search does not use these metrics. They are for the analysis (`architecture_search.py`, `generalisation.py`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from evaluators import FGSM, PGD, error_at, radii
from evaluators.attacks import margin
from evaluators.logits.differences import logits_of
from nas.data import open_test

if TYPE_CHECKING:
    from torch import nn

    from nas.config.schema import Config
    from nas.data import Dataset, Split
    from nas.data.config import DataConfig

# Multiples of the search's epsilon.
MULTIPLES = (0.25, 0.5, 1.0, 2.0)
ATTACKS = {"one_step": FGSM(), "many_steps": PGD(steps=10, loss=margin)}


def errors(network: nn.Module, data: Dataset, config: Config) -> dict[str, float]:
    """Returns errors in [0, 1] by name.

    `one_step@2` is the adversarial error under FGSM at twice the search's epsilon, and `one_step_flips@2` is its flip rate.
    The flip rate of a network without a correct image is 1.

    Args:
        network: Trained network.
        data: Training and validation images.
        config: Config of the search.
    """
    epsilon, test = config.evaluation.epsilon, _test_images(config.data).to(data.train.x.device)
    splits = {"train": data.train, "validation": data.validation, "test": test}
    metrics = {f"{name}_error": _clean_error(network, split) for name, split in splits.items()}
    attacked = test.first(config.evaluation.images)
    for name, attack in ATTACKS.items():
        grid = [multiple * epsilon for multiple in MULTIPLES]
        sizes = radii(network, attacked.x, attacked.y, attack, grid, seed=config.seed).numpy()
        right = sizes[sizes > 0]
        metrics |= {f"{name}@{multiple:g}": error_at(sizes, multiple * epsilon) for multiple in MULTIPLES}
        metrics |= {
            f"{name}_flips@{multiple:g}": error_at(right, multiple * epsilon) if len(right) else 1.0
            for multiple in MULTIPLES
        }
    return metrics


@functools.cache
def _test_images(config: DataConfig) -> Split:
    return open_test(config)


def _clean_error(network: nn.Module, split: Split) -> float:
    return float((logits_of(network, split.x).argmax(1) != split.y.cpu().numpy()).mean())
