"""What an attack maximises: functions of logits (N, K) and labels (N,), one value an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the cross-entropy of each image, (N,). Its gradient vanishes where logits are far apart."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the largest wrong logit minus the right one, (N,): positive where the image is misclassified.

    Blind to the scale of the logits, unlike cross-entropy.

    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, arXiv:1608.04644.
    """
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return wrong - right


def targeted_cross_entropy(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Returns minus the cross-entropy towards the classes `towards` (N,), (N,); the label y plays no part.

    Source: Kurakin, Goodfellow and Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
    """
    return -F.cross_entropy(logits, towards, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the difference of logits ratio, (N,): the margin, over the largest logit minus the third.

    Blind to the scale of the logits and to a shift of them, so that no step depends on it. At most 1 in size where the label
    is among the three largest; positive where the image is misclassified.

    Raises:
        ValueError: there are fewer than 3 logits.

    Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks", ICML 2020, arXiv:2003.01690.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"dlr needs a network of at least 3 logits, got {logits.shape[1]}; use margin")
    largest = logits.topk(3).values
    return margin(logits, y) / _above_zero(largest[:, 0] - largest[:, 2])


def targeted_dlr(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Returns the difference of logits ratio towards the classes `towards` (N,): (N,), positive where they beat the label.

    Raises:
        ValueError: there are fewer than 4 logits.

    Source: Croce and Hein, as for `dlr`.
    """
    if logits.shape[1] < 4:
        raise ValueError(f"targeted_dlr needs a network of at least 4 logits, got {logits.shape[1]}; use targeted_margin")
    largest = logits.topk(4).values
    return targeted_margin(logits, y, towards) / _above_zero(largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2)


def targeted_margin(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Returns the logits of the classes `towards` (N,) minus the right ones, (N,): positive where they beat the label."""
    return (logits.gather(1, towards[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def _above_zero(spread: Tensor) -> Tensor:
    """Returns the spread of the logits, kept so far above zero that not even the square of its inverse overflows."""
    return spread.clamp(min=torch.finfo(spread.dtype).tiny ** 0.5)


def targeted(loss: Loss) -> Loss:
    """Returns what a loss becomes when it is to lead towards given classes: a function of logits, labels and those.

    Raises:
        ValueError: it is not one of `LOSSES`.
    """
    if loss not in TARGETED:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)} to be aimed at a class, got {loss!r}")
    return TARGETED[loss]


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED: dict[Loss, Loss] = {cross_entropy: targeted_cross_entropy, margin: targeted_margin, dlr: targeted_dlr}
