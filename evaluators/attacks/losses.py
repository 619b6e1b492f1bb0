"""Losses that attacks maximise: functions of logits (N, K) and labels (N,) with one value per image, (N,)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the cross-entropy of each image, (N,).

    Where the label's logit is much larger than the others, the gradient of the cross-entropy is rounded to zero.

    Args:
        logits: Logits, (N, K).
        y: Labels, (N,) int64.
    """
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the margin loss: the largest wrong logit minus the logit of the label, (N,).

    It is positive where the image is misclassified. This loss is minus the margin of `evaluators.margins` and of response
    surfaces. The direction of its gradient does not depend on the scale of the logits, unlike that of cross-entropy.

    Args:
        logits: Logits, (N, K).
        y: Labels, (N,) int64.

    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, arXiv:1608.04644.
    """
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return wrong - right


def targeted_cross_entropy(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Returns minus the cross-entropy of the target classes, (N,).

    Args:
        logits: Logits, (N, K).
        y: Labels, (N,) int64; not used.
        towards: Target classes, (N,) int64.

    Source: Kurakin, Goodfellow and Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
    """
    return -F.cross_entropy(logits, towards, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the difference of logits ratio (DLR), (N,).

    The DLR is the loss `margin` divided by the difference between the largest and the third largest logit. It is positive
    where the image is misclassified. A change of the logits' scale or a constant added to them does not change it. It is in
    [-1, 1] where the label is among the three largest logits.

    Args:
        logits: Logits, (N, K), K >= 3.
        y: Labels, (N,) int64.

    Raises:
        ValueError: K is below 3.

    Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks", ICML 2020, arXiv:2003.01690.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"dlr needs a network of at least 3 logits, got {logits.shape[1]}; use margin")
    largest = logits.topk(3).values
    return margin(logits, y) / _above_zero(largest[:, 0] - largest[:, 2])


def targeted_dlr(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Returns the targeted difference of logits ratio, (N,). It is positive where the target's logit exceeds the label's.

    Args:
        logits: Logits, (N, K), K >= 4.
        y: Labels, (N,) int64.
        towards: Target classes, (N,) int64.

    Raises:
        ValueError: K is below 4.

    Source: Croce and Hein, as for `dlr`.
    """
    if logits.shape[1] < 4:
        raise ValueError(f"targeted_dlr needs a network of at least 4 logits, got {logits.shape[1]}; use targeted_margin")
    largest = logits.topk(4).values
    return targeted_margin(logits, y, towards) / _above_zero(largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2)


def targeted_margin(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Returns the logits of the target classes minus those of the labels, (N,).

    Args:
        logits: Logits, (N, K).
        y: Labels, (N,) int64.
        towards: Target classes, (N,) int64.
    """
    return (logits.gather(1, towards[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def _above_zero(spread: Tensor) -> Tensor:
    """Returns the spread of the logits, clamped so far above zero that the square of its inverse does not overflow."""
    return spread.clamp(min=torch.finfo(spread.dtype).tiny ** 0.5)


def targeted(loss: Loss) -> Loss:
    """Returns the targeted form of a loss: a function of logits (N, K), labels (N,) and target classes (N,).

    Args:
        loss: One of `LOSSES`.

    Raises:
        ValueError: loss is not one of `LOSSES`.
    """
    if loss not in TARGETED:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)} to have a targeted form, got {loss!r}")
    return TARGETED[loss]


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED: dict[Loss, Loss] = {cross_entropy: targeted_cross_entropy, margin: targeted_margin, dlr: targeted_dlr}
