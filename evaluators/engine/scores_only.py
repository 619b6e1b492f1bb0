"""Networks without gradients: their logits are computed outside torch, for example by onnxruntime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn


@final
class NoGradientError(RuntimeError):
    """A gradient was requested from a network that has none."""


class ScoresOnly(nn.Module, ABC):
    """Base class of networks that return logits but have no gradients.

    Attacks that need gradients raise an error. With gradients of zero, the network would look robust.
    Profiles leave out what needs gradients: some checks, and the first-order prediction.

    Attributes:
        reason: Why there are no gradients, for messages, such as "the file is quantised".
    """

    reason: str = "it is not a torch network"

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Returns the logits (N, K) of images x (N, ...), on the device of x; or several named outputs."""

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Returns the scores.

        Raises:
            NoGradientError: x requires gradients.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise NoGradientError(
                f"the network has no gradients: {self.reason}; use attacks on scores or decisions, square or hop_skip_jump"
            )
        return self.scores(x)


def why_no_gradients(network: nn.Module) -> str | None:
    """Returns why a network has no gradients, or None if it has: whether one of its modules is a `ScoresOnly`."""
    return next((module.reason for module in network.modules() if isinstance(module, ScoresOnly)), None)
