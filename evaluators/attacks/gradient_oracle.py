"""Access to the attacked network: gradients, losses and logits at given points. Misclassified points are recorded."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, final

import torch

from evaluators.attacks.losses import margin
from evaluators.attacks.usable_gradients import usable
from evaluators.engine.batches import forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from evaluators.attacks.clean_gradients import CleanGradientCache
    from evaluators.attacks.losses import Loss
    from evaluators.norms import Norm


Keep = Literal["nothing", "first", "nearest"]


class AllFooledError(Exception):
    """Raised to end an attack's loop once every image of the batch is misclassified."""


@final
class GradientOracle:
    """An attacked network with its images (N, ...), their labels (N,) and the ball around each image.

    An attack passes points for the whole batch to the methods, which return gradients, losses or logits. `keep` says which
    of these points are recorded:

    - "nothing": none.
    - "first": the first misclassified point of each image. The image is then dropped: it costs no further passes and its
      gradient is zero. An attack can be written as in its paper and still does no work on such images.
    - "nearest": the misclassified point nearest to each image, as minimum-norm attacks need it. No image is dropped.

    Attributes:
        labels: True labels, (N,).
        fooled: Whether a misclassified point inside the ball was recorded, (N,) bool.
        points: Recorded point of each fooled image, (N, ...); the clean image elsewhere.
        sizes: Size of the perturbation of the recorded point, (N,); infinite elsewhere.
        margins: Largest wrong logit minus the label's logit at the last point whose gradient was computed, (N,); minus
            infinity before the first one. Only with `keep` "first"; gradients from the cache do not count.

    Args:
        network: Network from images (N, ...) to logits (N, K).
        x: Clean images, (N, ...). If `clean` is given, the network must classify all of them correctly.
        y: True labels, (N,).
        norm: Shape of the balls.
        epsilon: Radius of each ball, N values in any shape, in pixel units.
        keep: Which points are recorded, as listed above.
        one_pass: Largest number of images in one pass; all images if None.
        clean: Cache of gradients at the clean images; None for no cache.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: Norm,
        epsilon: Tensor,
        *,
        keep: Keep,
        one_pass: int | None = None,
        clean: CleanGradientCache | None = None,
    ) -> None:
        self._network, self._x, self.labels = network, x, y
        self._one_pass, self._clean = one_pass or max(1, len(x)), clean
        self._norm, self._epsilon = norm, epsilon.flatten()
        self._keep = keep
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.points = x if keep == "nothing" else x.clone()
        self.sizes = torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
        self.margins = torch.full_like(self.sizes, -math.inf)
        self._given_up = torch.zeros_like(self.fooled)
        self._replaced: Callable[[Tensor], Tensor] = _unchanged

    @contextmanager
    def replacing_points(self, replaced: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside the context, the network is evaluated at `replaced(points)` instead of points (N, ...).

        The clean images are not replaced where a gradient is computed, so that the cache of gradients can be used.
        """
        self._replaced = replaced
        try:
            yield
        finally:
            self._replaced = _unchanged

    def give_up(self, images: Tensor) -> None:
        """Drops images, (N,) bool, although no misclassified point was found. Without `keep` "first", it does nothing."""
        self._given_up = self._given_up | images

    def take_up(self) -> None:
        """Undoes `give_up`: the next member of an ensemble attacks all images that are not misclassified."""
        self._given_up = torch.zeros_like(self.fooled)

    def gradient(self, points: Tensor, loss: Loss, *classes: Tensor) -> Tensor:
        """Returns the gradient of the loss at points (N, ...), same shape; zero where the image is dropped.

        Args:
            points: One point per image, (N, ...).
            loss: Function of logits (N, K), labels (N,) and, if given, `classes`, that returns one loss per image, (N,).
            classes: Further class indices for the loss, (N,) each: the target classes of a targeted loss.

        Raises:
            AllFooledError: all images are dropped; `Attack` catches it.
        """
        return self.value_and_gradient(points, loss, *classes)[1]

    def value_and_gradient(
        self, points: Tensor, loss: Loss, *classes: Tensor, only: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the loss at points, (N,), and its gradient, (N, ...).

        Where the image is dropped or left out, the loss is infinite and the gradient is zero. Arguments are as for
        `gradient`.

        Args:
            points: One point per image, (N, ...).
            loss: As for `gradient`.
            classes: As for `gradient`.
            only: Whether each image is needed, (N,) bool; None for all. The others cost no pass.

        Raises:
            AllFooledError: all images are dropped; `Attack` catches it.
        """
        if points is not self._x:
            points = self._replaced(points)
        if self._keep == "nothing" and only is None:
            value, gradient, _ = self._ask(points, loss, self.labels, *classes)
            return value, gradient
        left = self._left()
        values, gradients = points.new_full((len(points),), math.inf), torch.zeros_like(points)
        if only is not None:
            left = left[only[left]]
        if len(left) == 0:
            return values, gradients
        if points is self._x and self._clean is not None and not classes:
            # With a cache, all clean images are classified correctly: there is no misclassified point to record.
            losses, gradient = self._clean.take(left, loss, lambda new: self._ask(points[new], loss, self.labels[new])[:2])
        else:
            losses, gradient, logits = self._ask(points[left], loss, self.labels[left], *(c[left] for c in classes))
            if self._keep != "nothing":
                self._remember(left, points[left], logits)
            if self._keep == "first":
                self.margins[left] = margin(logits, self.labels[left]).to(self.margins.dtype)
        return values.index_copy_(0, left, losses.to(points.dtype)), gradients.index_copy_(0, left, gradient)

    def value(self, points: Tensor, loss: Loss, *classes: Tensor) -> Tensor:
        """Returns the loss at points (N, ...), (N,), without computing gradients; infinite where the image is dropped.

        Raises:
            AllFooledError: all images are dropped; `Attack` catches it.
        """
        left = self._left()
        logits = self._logits(points, left)
        values = loss(logits, self.labels[left], *(c[left] for c in classes))
        return points.new_full((len(points),), math.inf).index_copy_(0, left, values.to(points.dtype))

    def logits(self, points: Tensor) -> Tensor:
        """Returns the logits at points (N, ...), (N, K), without computing gradients; zero where the image is dropped.

        Raises:
            AllFooledError: all images are dropped; `Attack` catches it.
        """
        left = self._left()
        logits = self._logits(points, left).to(points.dtype)
        return logits.new_zeros(len(points), logits.shape[1]).index_copy_(0, left, logits)

    def wrong(self, points: Tensor, *, only: Tensor | None = None) -> Tensor:
        """Returns only whether points (N, ...) are misclassified, (N,) bool; True where the image is dropped or left out.

        Args:
            points: One point per image, (N, ...).
            only: Whether each image is needed, (N,) bool; None for all. The others cost no pass.

        Raises:
            AllFooledError: all images are dropped; `Attack` catches it.
        """
        left = self._left()
        wrong = torch.ones_like(self.fooled)
        if only is not None:
            left = left[only[left]]
            if len(left) == 0:
                return wrong
        return wrong.index_copy_(0, left, misclassified(self._logits(points, left), self.labels[left]))

    def _left(self) -> Tensor:
        """Returns the indices of the images that are not dropped."""
        if self._keep != "first":
            return torch.arange(len(self.fooled), device=self.fooled.device)
        left = (~(self.fooled | self._given_up)).nonzero().squeeze(1)
        if len(left) == 0 and self.fooled.all():
            raise AllFooledError
        return left

    def _logits(self, points: Tensor, left: Tensor) -> Tensor:
        points = self._replaced(points)
        logits = forward(self._network, points[left], self._one_pass)
        if self._keep != "nothing":
            self._remember(left, points[left], logits)
        return logits

    def _ask(self, points: Tensor, loss: Loss, *classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss at points, its gradient and the logits, in passes of at most `one_pass` points."""
        if len(points) <= self._one_pass:
            return self._pass(points, loss, *classes)
        parts = zip(*(tensor.split(self._one_pass) for tensor in (points, *classes)), strict=True)
        values, gradients, logits = zip(*(self._pass(part, loss, *rest) for part, *rest in parts), strict=True)
        return torch.cat(values), torch.cat(gradients), torch.cat(logits)

    def _pass(self, points: Tensor, loss: Loss, *classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._network(points.clone())  # A copy, as the first layer may work in place.
            values = loss(logits, *classes)
            if not values.requires_grad:  # The logits do not depend on the pixels.
                return values, torch.zeros_like(points), logits
            (gradient,) = torch.autograd.grad(values.sum(), points, allow_unused=True)
        return values.detach(), (torch.zeros_like(points) if gradient is None else usable(gradient)), logits.detach()

    def _remember(self, left: Tensor, points: Tensor, logits: Tensor) -> None:
        wrong = misclassified(logits, self.labels[left]).nonzero().squeeze(1)
        if len(wrong) == 0:  # The usual case: skips the computation of sizes.
            return
        images, points = left[wrong], points[wrong]
        size = self._norm.size(points - self._x[images])
        # An attack may evaluate points outside the ball or the pixel range (momentum, probes): these do not count.
        hit = (size <= self._epsilon[images] * (1 + 1e-5) + 1e-7) & (size < self.sizes[images])
        hit &= (points.flatten(1).amin(1) >= 0) & (points.flatten(1).amax(1) <= 1)
        images = images[hit]
        self.fooled[images] = True
        self.points[images] = points[hit]
        self.sizes[images] = size[hit]


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Returns whether the class of logits (N, K) differs from labels (N,), (N,) bool. Non-finite logits count as wrong.

    So a network that returns NaN within the ball does not count as robust there.
    """
    return (logits.argmax(1) != y) | ~logits.isfinite().all(1)


def _unchanged(points: Tensor) -> Tensor:
    return points
