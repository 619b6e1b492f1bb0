"""The network as an attack sees it: it answers with gradients, and remembers what was found."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from evaluators.attacks.losses import Loss
    from evaluators.norms import Norm


class AllFooledError(Exception):
    """Raised to leave an attack's loop when every image of the batch has been fooled."""


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Holds a network in evaluation mode with parameters that need no gradients, and puts everything back."""
    modes = [(module, module.training) for module in network.modules()]
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in wanted:
            parameter.requires_grad_(True)


@final
class Target:
    """A network, the images under attack (N, ...), their labels (N,) and the ball in which they may move.

    An attack asks it for gradients at points of its choice, always for the whole batch. Where `stop_when_fooled` is set,
    an image that was fooled costs nothing more: its gradient is zero, and the point that fooled it is kept. So a loop
    reads as in its paper and yet never works on an image whose answer is known.

    Attributes:
        fooled: Which images were seen misclassified inside the ball, (N,) bool.
        points: The first such point of each fooled image, (N, ...); the clean image elsewhere.
    """

    def __init__(
        self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, epsilon: Tensor, *, stop_when_fooled: bool
    ) -> None:
        self._network, self._x, self._y = network, x, y
        self._norm, self._epsilon = norm, epsilon.flatten()
        self._stop = stop_when_fooled
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.points = x.clone() if stop_when_fooled else x

    def gradient(self, points: Tensor, loss: Loss) -> Tensor:
        """Returns the gradient of the loss at points (N, ...), shaped alike; zero where the image is fooled already.

        Raises:
            AllFooledError: no image is left; `Attack` catches it.
        """
        if not self._stop:
            return self._ask(points, self._y, loss)[0]
        left = self._left()
        gradient, logits = self._ask(points[left], self._y[left], loss)
        self._remember(left, points[left], logits)
        return torch.zeros_like(points).index_copy_(0, left, gradient)

    def value(self, points: Tensor, loss: Loss) -> Tensor:
        """Returns the loss at points (N, ...), (N,), at the cost of no gradient; infinite where the image is fooled already.

        Raises:
            AllFooledError: no image is left; `Attack` catches it.
        """
        left = self._left()
        with torch.no_grad():
            logits = self._network(points[left])
            values = loss(logits, self._y[left])
        if self._stop:
            self._remember(left, points[left], logits)
        return points.new_full((len(points),), float("inf")).index_copy_(0, left, values.to(points.dtype))

    def _left(self) -> Tensor:
        """Returns the indices of the images that are not fooled yet."""
        left = (~self.fooled).nonzero().squeeze(1)
        if len(left) == 0:
            raise AllFooledError
        return left

    def _ask(self, points: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._network(points)
            value = loss(logits, y).sum()
            if not value.requires_grad:  # No path leads from the pixels to the logits.
                return torch.zeros_like(points), logits
            (gradient,) = torch.autograd.grad(value, points, allow_unused=True)
        return (torch.zeros_like(points) if gradient is None else gradient), logits.detach()

    def _remember(self, left: Tensor, points: Tensor, logits: Tensor) -> None:
        wrong = logits.argmax(1) != self._y[left]
        # A loop may query points outside the ball (momentum, finite differences): those prove nothing.
        inside = self._norm.size(points - self._x[left]) <= self._epsilon[left] * (1 + 1e-5) + 1e-7
        inside &= (points.flatten(1).amin(1) >= 0) & (points.flatten(1).amax(1) <= 1)
        hit = left[wrong & inside]
        self.fooled[hit] = True
        self.points[hit] = points[wrong & inside]
