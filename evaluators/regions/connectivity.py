"""The adversarial images of one clean image: number of distinct ones from many starts, distances, and connectivity.

Balls and the pixel range are convex, so the straight path between two adversarial images leaves neither. If every image on
the path is adversarial, the two images belong to one connected set. A path is evaluated at a finite number of points,
which is evidence of a connection but not a proof. If a straight path fails, one bent path is tried. It goes through the
image that gradient steps reach from the middle of the straight path.

The definitions are ours. Sources: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's
Response Surface and Uncertainty Regions", arXiv:2107.00003 (only the abstract was available), for the claim of infinitely
many adversarial images; Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018,
arXiv:1802.10026, for bent paths. Their paths connect the weights of networks.
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

# Default smallest distance of two distinct images, as a share of epsilon.
TOLERANCE = 0.01


@final
@dataclass(frozen=True, kw_only=True)
class Starts:
    """Settings for repeated runs of an attack on one image, each with new random numbers.

    Attributes:
        count: Number of runs, at least 1.
        seed: Seed of the attack. The results of the first runs do not depend on the count.
        stop_when_fooled: End each run at its first adversarial image, near the boundary, instead of after its last step.

    Raises:
        ValueError: count is not a whole number of at least 1.
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
    """M distinct adversarial images of one clean image, within epsilon of it.

    Attributes:
        x: Clean image, (1, ...).
        label: True class of the clean image.
        norm: Shape of the ball.
        epsilon: Radius of the ball, in pixel units.
        starts: Number of runs of the attack.
        successes: Number of runs that ended at an adversarial image.
        images: Distinct adversarial images, (M, ...), in the order of the runs. The distance of each from all earlier
            ones exceeds a tolerance.
        predictions: Classes of the images, (M,) int64, all wrong.
        distances: Pairwise distances in the norm, as shares of epsilon, (M, M), at most 2.
        distances_l2: Pairwise L2 distances, in pixel units, (M, M).
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
        """Returns the number of different wrong classes of the images."""
        return len(np.unique(self.predictions))

    @property
    def spread(self) -> float:
        """Returns the mean pairwise distance of the images, as a share of epsilon; NaN for fewer than two images."""
        pairs = self.distances[np.triu_indices(len(self.distances), 1)]
        return float(pairs.mean()) if len(pairs) else float("nan")


@final
@dataclass(frozen=True)
class Connections:
    """Connectivity of M adversarial images by paths of adversarial images, judged by a finite number of points per path.

    Attributes:
        points: Number of evaluated points of a straight path, without its ends.
        straight: Whether the straight path between two images is misclassified at all points, (M, M) bool.
        same_class: Whether the straight path and both ends have the same wrong class at all points, (M, M) bool.
        bent: Whether a bent path connects two images whose straight path fails, (M, M) bool.
        by_straight: Component of each image under straight paths, (M,) int64, numbered from 0.
        components: Component of each image under straight and bent paths, (M,) int64, numbered from 0.
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
    """Returns the distinct adversarial images that an attack finds around one clean image.

    Args:
        network: Maps images (N, ...) to logits (N, K). Its state is restored afterwards.
        x: Clean image, (1, ...), pixels in [0, 1]. If it is misclassified, most points around it are adversarial.
        y: True label of the image, (1,) int64.
        attack: Any attack. An attack without random numbers finds at most one image.
        epsilon: Radius of the ball, in pixel units, above 0.
        starts: Number and settings of the runs of the attack.
        tolerance: Smallest distance of two distinct images, as a share of epsilon in the attack's norm, in [0, 2]. Nearer
            images may be two approximations of one local maximum of the loss.
        batch_size: Images in one pass without gradients.

    Raises:
        TypeError: network, x, y or attack has the wrong type.
        ValueError: x, y, epsilon or tolerance is out of range, or the network's output is not (N, K) logits.
    """
    check_attack(attack)
    check_images(x)
    if len(x) != 1:
        raise ValueError(f"x must hold one image, with shape (1, ...), got {len(x)} images")
    check_labels(y, 1)
    if not 0 <= tolerance <= 2:
        raise ValueError(f"tolerance must be between 0 and 2, a share of epsilon, got {tolerance:g}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon:g}; a ball of radius 0 holds only the clean image")
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
    """Returns the pairwise distances of images (M, ...) in a norm, (M, M)."""
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
    """Returns which adversarial images of a set are connected inside the ball.

    The cost is one forward pass for each point of a path, and one straight path for each pair of images: 496 paths for 32
    images. Each straight path that fails also costs gradient steps and a bent path.

    Args:
        network: Network for which the adversarial images were found. Its state is restored afterwards.
        adversarial: Set of at least one adversarial image.
        points: Number of evaluated points of a straight path, evenly spaced, and of each half of a bent path.
        steps: Number of gradient steps on the margin loss from the middle of a straight path that fails.
        step_size: Length of a step, as a fraction of epsilon.
        batch_size: Images in one pass.

    Raises:
        ValueError: the set is empty, or a setting is out of range.
    """
    if len(adversarial.images) == 0:
        raise ValueError("adversarial must hold at least one image, got none")
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
    """Returns the classes of P points strictly between two images (...), (P,); with `last` also of the end, (P + 1,)."""
    share = torch.arange(1, points + 1 + last, dtype=start.dtype, device=start.device) / (points + 1)
    line = start + share.view(-1, *[1] * start.ndim) * (end - start)
    # Rounding may lead out of the pixel range.
    return predict(network, line.clamp(0, 1), batches).argmax(1).cpu().numpy()


def _pushed(
    network: nn.Module, adversarial: AdversarialSet, middles: Tensor, steps: int, step_size: float, one_pass: int
) -> Tensor:
    """Returns the points that gradient steps reach from middles (P, ...), inside the ball, (P, ...)."""
    x = adversarial.x.expand_as(middles)
    size = middles.new_full((len(middles),), adversarial.epsilon)
    y = torch.full((len(middles),), adversarial.label, dtype=torch.int64, device=middles.device)
    # The steps do not stop at the boundary: a path through a point close to the boundary would soon cross it again.
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
    """Returns the component of each node of a graph (M, M), (M,), numbered in the order of their first nodes."""
    labels: NDArray[np.int64] = connected_components(csr_array(connected), directed=False)[1].astype(np.int64)
    return labels
