"""What an attack maximises: functions of logits (N, K) and labels (N,), one value an image."""

from __future__ import annotations

from collections.abc import Callable

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


def least_likely(logits: Tensor, y: Tensor) -> Tensor:
    """Returns minus the cross-entropy towards the class of the smallest logit, (N,); the label y plays no part.

    Source: Kurakin, Goodfellow and Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
    """
    return -F.cross_entropy(logits, logits.argmin(1), reduction="none")


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}
