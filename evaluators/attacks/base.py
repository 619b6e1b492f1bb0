"""Base classes of attacks. A subclass writes one method; the final `__call__` checks the inputs and projects the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

import torch

from evaluators.attacks.gradient_oracle import AllFooledError, GradientOracle, Keep
from evaluators.engine.batches import find_batches
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_epsilons, check_images, check_labels, check_logits, check_module
from evaluators.engine.noise import ImageNoise
from evaluators.norms import Norm, check_norm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.attacks.clean_gradients import CleanGradientCache


class Attack(ABC):
    """Base class of all attacks: a search for a misclassified point near each image.

    A subclass is a frozen dataclass that implements `perturb`.

    Attributes:
        norm: Shape of the ball.
    """

    norm: Norm

    @abstractmethod
    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns perturbations, (N, ...), shaped like x.

        The caller projects the result onto the ball. An implementation projects only where its paper does.

        Args:
            target: The attacked network. `target.gradient(points, loss)` returns gradients, and `target.value(points, loss)`
                returns losses without gradients.
            x: Clean images, (N, ...), pixels in [0, 1].
            epsilon: Radius of each image's ball, (N, 1, ...), in pixel units.
            noise: Random numbers, reproducible for each image.
        """

    def supports(self, x: Tensor) -> bool:
        """Returns whether the attack works on images shaped like x (N, ...). An ensemble skips members that do not."""
        return True

    def recorded(self, *, stop_when_fooled: bool) -> Keep:
        """Returns which misclassified points the `GradientOracle` records during the attack."""
        return "first" if stop_when_fooled else "nothing"

    @final
    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        epsilon: float | Tensor,
        *,
        seed: int = 0,
        stop_when_fooled: bool = False,
    ) -> Tensor:
        """Returns adversarial images, (N, ...), within epsilon of x and with pixels in [0, 1].

        The network runs in evaluation mode. Afterwards its mode, buffers, `requires_grad` flags and `grad` fields are as
        before.

        Args:
            network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K).
            x: Clean images, (N, ...).
            y: True labels, (N,) int64.
            epsilon: Radius of the ball in pixel units: 8/255, not 8. One number, or one number per image, (N,).
            seed: Seed of the attack's random numbers.
            stop_when_fooled: Return the first misclassified point of an image, if there is one, instead of the last point of
                the attack. Ensembles and some other attacks always do this. Minimum-norm attacks always return the nearest
                misclassified point.

        Raises:
            TypeError: network, x, y or a setting of the attack has the wrong type.
            ValueError: x, y or epsilon is out of range, or the network's output is not (N, K) logits.
        """
        check_module(network)
        check_images(x)
        check_attack(self)
        radius = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device)
        if radius.shape not in ((), (len(x),)):
            raise ValueError(
                f"epsilon must be one number, or one number per image, ({len(x)},), got shape {tuple(radius.shape)}"
            )
        radius = radius.expand(len(x))
        check_epsilons([float(radius.min())], self.norm.largest(x[0].numel()))
        check_epsilons([float(radius.max())], self.norm.largest(x[0].numel()))
        with frozen(network):
            batches, logits = find_batches(network, x)
            check_logits(logits, 1)
            check_labels(y, len(x), logits.shape[1])

            def work(batch: Tensor) -> Tensor:
                return self.generate(
                    network,
                    x[batch],
                    y[batch],
                    radius[batch],
                    ImageNoise.of(seed, batch),
                    stop_when_fooled=stop_when_fooled,
                    one_pass=batches.size,
                )[0]

            index = torch.arange(len(x), device=x.device)
            return torch.cat([points for _, points in batches.over(index, work, loops=True)])

    @final
    def generate(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        epsilon: Tensor,
        noise: ImageNoise,
        *,
        stop_when_fooled: bool,
        one_pass: int | None = None,
        clean: CleanGradientCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns adversarial images (N, ...), and whether each is known to be misclassified, (N,) bool. Checks no inputs.

        Its callers, such as `radii` and adversarial training, have checked the inputs. The network keeps its current mode.
        False means unknown: the last point of an attack may not be evaluated, and without `stop_when_fooled` only attacks
        that always stop, and minimum-norm attacks, record misclassified points.

        Args:
            network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K).
            x: Clean images, (N, ...).
            y: True labels, (N,) int64.
            epsilon: Radius of each image's ball, (N,), in pixel units.
            noise: Random numbers of each image.
            stop_when_fooled: As for `__call__`.
            one_pass: Largest number of images in one pass through the network; all of them if None.
            clean: Cache of the gradients at the clean images, so that several calls compute them only once; None for no
                cache. With a cache, the network must classify all clean images correctly.
        """
        ball = epsilon.view(-1, *[1] * (x.ndim - 1))
        keep = self.recorded(stop_when_fooled=stop_when_fooled)
        target = GradientOracle(network, x, y, self.norm, epsilon, keep=keep, one_pass=one_pass, clean=clean)
        try:
            delta = self.perturb(target, x, ball, noise)
        except AllFooledError:
            return target.points, target.fooled
        points = self.norm.inside(x, delta, ball)
        if keep != "nothing":
            points = torch.where(target.fooled.view(ball.shape), target.points, points)
        return points.detach(), target.fooled


def check_attack(attack: Attack) -> None:
    """Checks that `attack` is an `Attack`, that its norm is a `Norm`, and that its loss, if any, is a function.

    Raises:
        TypeError: the attack, its norm or its loss has the wrong type, such as a class or a name.
    """
    if not isinstance(attack, Attack):
        if isinstance(attack, type) and issubclass(attack, Attack):
            raise TypeError(f"attack must be an attack, got the class {attack.__name__}; write {attack.__name__}()")
        raise TypeError(f"attack must be an instance of evaluators.Attack, got {type(attack).__name__}")
    check_norm(attack.norm)
    loss = getattr(attack, "loss", None)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function, such as evaluators.attacks.cross_entropy, margin or dlr, got {loss!r}")


class SingleStep(Attack):
    """Base class of attacks that take one step along a direction that does not depend on epsilon.

    One gradient is therefore enough for a whole grid of epsilons.
    """

    @abstractmethod
    def direction(self, target: GradientOracle, x: Tensor) -> Tensor:
        """Returns a perturbation of size 1 for each image, shaped like x (N, ...). `perturb` scales it by epsilon."""

    @final
    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns epsilon times the direction."""
        return epsilon * self.direction(target, x)


class MinimumNorm(Attack):
    """Base class of attacks that look for the nearest misclassified point instead of any misclassified point within epsilon.

    One run therefore gives the radius of every image without a grid of epsilons. The attack evaluates points with the
    `GradientOracle`, which keeps the nearest misclassified point of each image.
    """

    @abstractmethod
    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Evaluates points with the target, to find misclassified points nearer and nearer to x, (N, ...).

        Returns nothing: the target keeps the nearest misclassified point of each image.
        """

    @final
    def recorded(self, *, stop_when_fooled: bool) -> Keep:
        """Returns "nearest"."""
        return "nearest"

    @final
    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the smallest perturbation found that fools the network within epsilon; zero where there is none."""
        self.minimise(target, x, noise)
        return target.points - x


class AttackEnsemble(Attack):
    """Base class of ensembles: several attacks of one norm. For each image, the worst case over the attacks counts.

    Each attack runs only on images that the earlier attacks did not fool. In `radii`, it runs on an image only at epsilons
    below the smallest radius that the earlier attacks found for this image.

    Attributes:
        downwards: Whether `radii` tries these epsilons from the largest downwards, as long as the attack succeeds, instead
            of all of them upwards. This is much faster. But an attack that fails at the largest of them is not tried at
            smaller ones, where it might succeed.
    """

    downwards: ClassVar[bool] = False

    @abstractmethod
    def members(self) -> tuple[Attack, ...]:
        """Returns the attacks in the order in which they run: cheap ones first."""

    @final
    def recorded(self, *, stop_when_fooled: bool) -> Keep:
        """Returns "first": a later member does not attack images that an earlier one has fooled."""
        return "first"

    @final
    def supported_members(self, x: Tensor) -> tuple[Attack, ...]:
        """Returns the members that work on images shaped like x (N, ...)."""
        return tuple(member for member in self.members() if member.supports(x))

    @final
    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation of the last member. The target keeps the misclassified points of all members."""
        delta = torch.zeros_like(x)
        for number, member in enumerate(self.supported_members(x)):
            if number:
                target.wrong(self.norm.inside(x, delta, epsilon))
            delta = member.perturb(target, x, epsilon, noise.fork(number))
            target.take_up()
        return delta
