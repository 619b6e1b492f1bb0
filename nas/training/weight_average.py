"""Average of a network's weights over the recent training steps. It predicts the final network early.

At high learning rates, in the middle of a schedule, the weights oscillate around their final values. The error of
an epoch is then noisy. The averaged weights are closer to the final ones.

Rank correlation of the adversarial error with the final error, for 40 random architectures on digits with 10 epochs: after 3
epochs it was 0.29 for the weights and 0.70 for their average. After 6 epochs it was 0.72 and 0.91.

Source: polynomial-decay averaging, Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", ICML 2013,
arXiv:1212.1824, section 4, with eta = 8: the average is mostly over the last ninth of the steps so far.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import TYPE_CHECKING, Any, final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

ETA = 8


@final
class WeightAverage:
    """Average of a network's weights and buffers over the steps so far.

    `torch.optim.swa_utils.AveragedModel` gives the same numbers. In each step, it lists the tensors of the network and waits
    for the device, which takes long for a small network.

    Attributes:
        module: Network with the averaged weights, in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        self.module = copy.deepcopy(network).eval()
        self._count = 0
        floating = [
            (averaged, current)
            for averaged, current in zip(_tensors(self.module), _tensors(network), strict=True)
            if current.is_floating_point()
        ]
        self._averaged, self._current = [a for a, _ in floating], [c for _, c in floating]

    def update(self) -> None:
        """Adds the current weights, after a training step."""
        share = (ETA + 1) / (self._count + 1 + ETA)
        torch._foreach_lerp_(self._averaged, self._current, share)
        self._count += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns the averaged weights and the number of steps."""
        return {"module": self.module.state_dict(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        self.module.load_state_dict(state["module"])
        self._count = state["count"]


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return (tensor.detach() for tensor in chain(network.parameters(), network.buffers()))
