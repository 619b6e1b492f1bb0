"""The adversarial images of one clean image: how many an attack finds from many starts, how far apart, and how connected.

Balls and the pixel range are convex: the straight path between two adversarial images of one ball stays in it. Where every
image on the path is adversarial, too, the two belong to one connected set. Here a path is looked at in a finite number of
points: that is evidence of a connection and no proof of one. Where a straight path leaves the set, one bent path is tried:
through the image to which gradient steps lead from the middle of the straight one.

The definitions are ours. Source of the claim that there are infinitely many: Shu, Xi and Kamhoua, "Understanding
Adversarial Examples Through Deep Neural Network's Response Surface and Uncertainty Regions", arXiv:2107.00003, of which only
the abstract was at hand. Source of bent paths, there between weights: Garipov et al., "Loss Surfaces, Mode Connectivity, and
Fast Ensembling of DNNs", NeurIPS 2018, arXiv:1802.10026.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from evaluators.attacks.base import check_attack
from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.attacks.gradient_steps import check_steps, gradient_steps
from evaluators.attacks.losses import margin
from evaluators.curves.error_curves import Floats
from evaluators.engine.batches import FORWARD_ONLY, Batches
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_images, check_labels
from evaluators.engine.prepared import predict
from evaluators.norms import L2, Norm

if TYPE_CHECKING:
    from torch import nn

    from evaluators.attacks.base import Attack

# How far apart two images are that count as two, as a share of epsilon.
TOLERANCE = 0.01


@final
@dataclass(frozen=True, kw_only=True)
class Starts:
    """How an attack is run several times on one image, each time with other random numbers.

    Attributes:
        count: How often.
        seed: Seed of the attack. The first images do not depend on the count.
        stop_when_fooled: End each run at the first adversarial image, near the boundary, instead of where it ends.
    """

    count: int = 32
    seed: int = 0
    stop_when_fooled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"count must be a whole number of at least 1, got {self.count!r}")


@final
@dataclass(frozen=True)
class AdversarialSet:
    """Distinct adversarial images of one clean image, M of them, within epsilon of it.

    Attributes:
        x: The clean image, (1, ...).
        label: Its true class.
        norm: Shape of the ball.
        epsilon: Radius of the ball, in pixel units.
        starts: How often the attack was run.
        successes: How many of its runs ended at an adversarial image.
        images: The distinct ones, (M, ...), in the order of the runs: each farther than a tolerance from those
            before it.
        predictions: Their classes, (M,) int64, all wrong.
        distances: Between any two of them, in the norm, as shares of epsilon, (M, M): at most 2.
        distances_l2: Between any two of them, in L2, in pixel units, (M, M).
    """

    x: Tensor
    label: int
    norm: Norm
    epsilon: float
    starts: int
    successes: int
    images: Tensor
    predictions: NDArray[np.int64]
    distances: Floats
    distances_l2: Floats

    @property
    def classes(self) -> int:
        """Returns the number of wrong classes among them."""
        return len(np.unique(self.predictions))

    @property
    def spread(self) -> float:
        """Returns the mean distance of two of them, as a share of epsilon; NaN if there are fewer than two."""
        pairs = self.distances[np.triu_indices(len(self.distances), 1)]
        return float(pairs.mean()) if len(pairs) else float("nan")


@final
@dataclass(frozen=True)
class Connections:
    """Which of M adversarial images are connected by paths of adversarial images, as far as points on them tell.

    Attributes:
        points: How many points of a straight path were looked at, besides its ends.
        straight: All of the straight path between two images is misclassified, (M, M) bool.
        same_class: All of it, both ends too, is given one and the same wrong class, (M, M) bool.
        bent: There is a bent path, where no straight one is, (M, M) bool.
        by_straight: Component of each image under straight paths, (M,) int64, from 0 on.
        components: Component of each image under straight and bent paths, (M,) int64, from 0 on.
    """

    points: int
    straight: NDArray[np.bool_]
    same_class: NDArray[np.bool_]
    bent: NDArray[np.bool_]
    by_straight: NDArray[np.int64]
    components: NDArray[np.int64]


def adversarial_set(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    epsilon: float,
    *,
    starts: Starts = Starts(),
    tolerance: float = TOLERANCE,
    batch_size: int = FORWARD_ONLY,
) -> AdversarialSet:
    """Returns the distinct adversarial images that an attack finds around one clean image x (1, ...) with label y (1,).

    Args:
        network: Maps images to logits (N, K). It is left as it was.
        x: The clean image; where it is misclassified itself, most points around it are adversarial.
        y: Its true label, int64.
        attack: Any attack; one without a random start finds one image at most.
        epsilon: Radius of the ball, in pixel units, above 0.
        starts: How often to run the attack, and how.
        tolerance: How far apart two images are that count as two, as a share of epsilon, in the attack's norm. Two that are
            nearer may be one local maximum, not quite reached.
        batch_size: Images in one pass without gradients.

    Raises:
        TypeError: network, x, y or attack has the wrong type.
        ValueError: x, y, epsilon or tolerance is out of range, or the network's output is not (N, K) logits.
    """
    check_attack(attack)
    check_images(x)
    if len(x) != 1:
        raise ValueError(f"x must hold one image, with shape (1, ...), got {len(x)} of them")
    check_labels(y, 1)
    if not 0 <= tolerance <= 2:
        raise ValueError(f"tolerance must be between 0 and 2, a share of epsilon, got {tolerance:g}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon:g}: a point has no other images in it")
    many, labels = x.repeat(starts.count, *[1] * (x.ndim - 1)), y.repeat(starts.count)
    ended = attack(network, many, labels, epsilon, seed=starts.seed, stop_when_fooled=starts.stop_when_fooled)
    with frozen(network):
        predictions = predict(network, ended, Batches(batch_size)).argmax(1)
    wrong = predictions != y
    images, predictions = ended[wrong], predictions[wrong]
    distances = _distances(images, attack.norm) / epsilon
    kept: list[int] = []
    for image in range(len(images)):
        if not kept or float(distances[image, kept].min()) > tolerance:
            kept.append(image)
    return AdversarialSet(
        x=x,
        label=int(y),
        norm=attack.norm,
        epsilon=float(epsilon),
        starts=starts.count,
        successes=len(images),
        images=images[kept],
        predictions=predictions[kept].cpu().numpy(),
        distances=distances[np.ix_(kept, kept)],
        distances_l2=_distances(images[kept], L2()),
    )


def _distances(images: Tensor, norm: Norm) -> Floats:
    """Returns the size of the difference of any two images (M, ...), (M, M)."""
    lines = [norm.size((images - image).double()) for image in images]
    return torch.stack(lines).cpu().numpy() if lines else np.zeros((0, 0))


def connections(
    network: nn.Module,
    adversarial: AdversarialSet,
    *,
    points: int = 16,
    steps: int = 10,
    step_size: float = 0.25,
    batch_size: int = FORWARD_ONLY,
) -> Connections:
    """Returns which of the images of a set are connected inside its ball.

    Costs a forward pass for each point on a path between any two images: 496 paths for 32 of them.

    Args:
        network: That for which they were found. It is left as it was.
        adversarial: At least one image.
        points: How many points to look at on a straight path, evenly spaced; a bent path has as many on each half.
        steps: Of gradient ascent on the margin loss, from the middle of a straight path that fails.
        step_size: Length of a step, as a fraction of epsilon.
        batch_size: Images in one pass.

    Raises:
        ValueError: there is no image, or a setting is out of range.
    """
    if len(adversarial.images) == 0:
        raise ValueError("there is no adversarial image to connect; none was found")
    for name, number in (("points", points), ("steps", steps)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
    check_steps(steps, step_size)
    images, count = adversarial.images, len(adversarial.images)
    first, second = np.triu_indices(count, 1)
    straight, same, bent = (np.eye(count, dtype=bool) for _ in range(3))
    bent[:] = False
    with frozen(network):
        batches = Batches(batch_size)
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            seen = _along(network, images[i], images[j], points, batches)
            straight[i, j] = straight[j, i] = bool((seen != adversarial.label).all())
            ends = adversarial.predictions[i] == adversarial.predictions[j]
            same[i, j] = same[j, i] = bool(ends and (seen == adversarial.predictions[i]).all())
        failed = [(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True) if not straight[i, j]]
        if failed:
            middles = torch.stack([(images[i] + images[j]) / 2 for i, j in failed])
            for (i, j), through in zip(
                failed, _pushed(network, adversarial, middles, steps, step_size, batch_size), strict=True
            ):
                halves = (_along(network, images[end], through, points, batches, last=True) for end in (i, j))
                bent[i, j] = bent[j, i] = all(bool((seen != adversarial.label).all()) for seen in halves)
    return Connections(points, straight, same, bent, _components(straight), _components(straight | bent))


def _along(
    network: nn.Module, start: Tensor, end: Tensor, points: int, batches: Batches, *, last: bool = False
) -> NDArray[np.int64]:
    """Returns the classes of points strictly between two images (...), and of the last, too, if asked: (P,) or (P + 1,)."""
    share = torch.arange(1, points + 1 + last, dtype=start.dtype, device=start.device) / (points + 1)
    line = start + share.view(-1, *[1] * start.ndim) * (end - start)
    # Rounding may lead out of the pixel range.
    return predict(network, line.clamp(0, 1), batches).argmax(1).cpu().numpy()


def _pushed(
    network: nn.Module, adversarial: AdversarialSet, middles: Tensor, steps: int, step_size: float, one_pass: int
) -> Tensor:
    """Returns where gradient steps lead from middles (P, ...), in the ball, (P, ...)."""
    x = adversarial.x.expand_as(middles)
    size = middles.new_full((len(middles),), adversarial.epsilon)
    y = torch.full((len(middles),), adversarial.label, dtype=torch.int64, device=middles.device)
    # All the way, not just over the boundary: halves of a path that only grazes it would soon cross it again.
    target = GradientOracle(network, x, y, adversarial.norm, size, keep="nothing", one_pass=one_pass)
    ball = size.view(-1, *[1] * (x.ndim - 1))
    return x + gradient_steps(
        lambda points: target.gradient(points, margin),
        adversarial.norm,
        x,
        middles,
        ball,
        steps=steps,
        step_size=step_size,
    )


def _components(connected: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the component of each image (M,) of a graph (M, M), numbered in the order of their first images."""
    labels: NDArray[np.int64] = connected_components(csr_array(connected), directed=False)[1].astype(np.int64)
    return labels
