"""The wrong class that a minimum-norm attack aims at.

The boundary to the class with the second largest logit is often not the nearest one, because another logit may rise faster.
To first order, the distance to a class is the difference of the logits divided by the dual norm of its gradient.

Source: Melamed, Yehudai and Shamir, "MALT Powers Up Adversarial Attacks", NeurIPS 2024, arXiv:2407.02240. They rank the
classes in this way for an attack with a given epsilon.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evaluators.attacks.losses import Loss, margin, targeted_margin

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.norms import Norm


def check_candidates(candidates: int) -> None:
    """Checks the number of classes that an attack considers.

    Raises:
        ValueError: it is below 2.
    """
    if candidates < 2:
        raise ValueError(f"candidates must be at least 2, the true class and one other, got {candidates}")


def rivals(target: GradientOracle, x: Tensor, candidates: int) -> tuple[Tensor, ...]:
    """Returns the wrong classes with the largest logits at the clean images, (N,) int64 each, in descending order.

    Args:
        target: The attacked network.
        x: Clean images, (N, ...).
        candidates: Number of classes: the true class and the others. Fewer if the network has fewer.
    """
    others = target.logits(x).scatter(1, target.labels[:, None], -math.inf)
    return others.topk(min(candidates, others.shape[1]) - 1).indices.unbind(1)


def rank_rivals(target: GradientOracle, norm: Norm, x: Tensor, candidates: int) -> Tensor:
    """Returns the wrong classes by their first-order distance from each image, the nearest one first, (N, R) int64.

    Args:
        target: The attacked network.
        norm: Norm in which distances are measured.
        x: Clean images, (N, ...).
        candidates: Number of classes to rank, as for `rivals`. One gradient is computed for each wrong class.
    """
    return _ranked(target, norm, x, rivals(target, x, candidates))


def margin_to_nearest(target: GradientOracle, norm: Norm, x: Tensor, candidates: int) -> tuple[Loss, tuple[Tensor, ...]]:
    """Returns the margin to the wrong class that is nearest to each image, to first order: a loss and its target classes.

    Arguments are those of `rank_rivals`. With at most 2 candidates or classes, no gradient is computed, and the loss is the
    margin to the wrong class with the largest logit at each point.
    """
    classes = rivals(target, x, candidates) if candidates > 2 else ()
    if len(classes) < 2:
        return margin, ()
    return targeted_margin, (_ranked(target, norm, x, classes)[:, 0],)


def _ranked(target: GradientOracle, norm: Norm, x: Tensor, classes: tuple[Tensor, ...]) -> Tensor:
    """Returns wrong classes, (N,) each, by their first-order distance from each image, (N, R) int64."""
    distances = []
    for rival in classes:
        value, gradient = target.value_and_gradient(x, targeted_margin, rival)
        # Where the gradient is zero, the distance is infinite, and NaN where the logits are equal, too.
        distances.append((value.abs() / norm.dual(gradient)).nan_to_num(math.inf, math.inf))
    order = torch.stack(distances, 1).argsort(dim=1, stable=True)
    return torch.stack(classes, 1).gather(1, order)
