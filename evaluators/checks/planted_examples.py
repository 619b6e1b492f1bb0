"""The active test: does an attack find adversarial images that exist by construction?

For each image, the final linear layer of the network is replaced by a classifier of two classes. It separates the image, and
random points around it, from one more random point on the surface of the ball. That point is therefore an adversarial image
of the changed network. An attack that does not find it, nor another one, is too weak, or the network's features mislead it.

**Measured** on small networks of digits. On a convolutional network, trained with or without adversarial images, PGD-10,
PGD-20, APGD, FMN and the ensembles find all planted images, in both norms; a random search finds hardly any. PGD with 1
step of 0.05 epsilon or 2 steps of 0.1 epsilon finds none. Three changes of the features before the final layer make PGD,
APGD and FMN fail. If the features are rounded, the attacks find none. With a straight-through gradient of the rounding, they
find 22 to 88 %. If only the largest tenth of the features is kept, they find 19 to 61 %. On ten other networks (linear,
fully connected, and with 16 or 64 averaged features), PGD and FMN find 98 to 100 %, and a random search up to 31 %.

The test costs 130 passes and one attack at one epsilon on 64 images. That takes 22 to 34 % of the time of an error curve of
PGD-20 with 449 images and 10 epsilons, on the small network of digits. The share falls as the number of images rises.

A passed test is necessary, but it does not show that an attack is strong: the planted images are easy to find.

Source: Zimmermann, Brendel, Tramèr and Carlini, "Increasing Confidence in Adversarial Robustness Evaluations", NeurIPS 2022,
arXiv:2206.13991. Differences from the paper: the classifier is a regularised linear discriminant in closed form instead of
a trained logistic regression; points of the surface are among the points to separate from; all images are attacked in one
batch, so that the attack runs as it does in an evaluation.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.losses import margin
from evaluators.checks.result import CheckResult, binomial_excess
from evaluators.engine.batches import Batches
from evaluators.engine.frozen import frozen
from evaluators.engine.noise import ImageNoise
from evaluators.engine.prepared import predict, prepare
from evaluators.norms import broadcast_per_image
from evaluators.radius.measure import measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators.attacks.base import Attack
    from evaluators.norms import Norm

# Number of attacked images, and the smallest number that allows a verdict.
IMAGES, FEWEST = 64, 20
# Numbers of random points of each image: inside the ball and on its surface, for the classifier; on the surface, for the
# random search.
INSIDE, SURFACE, SEARCH = 32, 32, 64
# Place of the threshold between the other points (0) and the planted point (1).
THRESHOLD = 0.9


def finds_planted(
    network: nn.Module, x: Tensor, y: Tensor, name: str, attack: Attack, epsilon: float, *, batch_size: int | None = None
) -> CheckResult | None:
    """Checks that an attack finds adversarial images that exist by construction.

    The check fails if the attack fails on more than 5 % of the images, and significantly more than 2 % (exact binomial
    test), or if a random search with 64 points finds more.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K); unchanged.
        x: Clean images, (N, ...). At most 64 of the correctly classified ones are used.
        y: True labels, (N,) int64.
        name: Name of the attack, for the evidence.
        attack: An untargeted attack.
        epsilon: Epsilon of the attack, in pixel units.
        batch_size: Images in one pass; None to choose it from the memory that one image needs.

    Returns:
        The outcome; None if the network does not end in an `nn.Linear`, or if the test can be built for fewer than 20
        images, for example because the features do not change in the ball.
    """
    changed = changed_network(network, x, y, attack.norm, epsilon, batch_size=batch_size)
    if changed is None:
        return None
    body, images, found_by_search = changed
    with prepare(body, images, torch.zeros(len(images), dtype=torch.int64, device=x.device), batch_size) as prepared:
        found = measure(prepared, attack, [epsilon]) <= epsilon
    failures = binomial_excess(int((~found).sum()), len(found))
    success, by_search = 1 - failures.share, float(found_by_search.double().mean())
    return CheckResult(
        f"finds_planted_{attack.norm.name}",
        not failures.is_finding() and success >= by_search,
        {
            "attack": name,
            "images": len(images),
            "success": success,
            "random_success": by_search,
            "epsilon": epsilon,
            "p_value": failures.p_value,
        },
    )


def is_affordable(attacks: Mapping[str, Attack], n: int, epsilons: Sequence[float]) -> bool:
    """Returns whether the active test needs at most as many passes through the network as the evaluation itself.

    A gradient counts as three passes. An attack without a setting `steps` counts as one gradient.

    Args:
        attacks: Attacks of the evaluation, by name.
        n: Number of images of the evaluation.
        epsilons: Epsilons of the evaluation.
    """
    steps = {name: int(getattr(attack, "steps", 1)) for name, attack in attacks.items()}
    # A minimum-norm attack runs once for all epsilons.
    runs = {name: 1 if isinstance(attack, MinimumNorm) else len(epsilons) for name, attack in attacks.items()}
    test = min(n, IMAGES) * (2 + INSIDE + SURFACE + SEARCH + 3 * max(steps.values()))
    return test <= 3 * n * sum(steps[name] * runs[name] for name in attacks)


def changed_network(
    network: nn.Module, x: Tensor, y: Tensor, norm: Norm, epsilon: float, *, batch_size: int | None = None
) -> tuple[ChangedNetwork, Tensor, Tensor] | None:
    """Returns a network with one planted adversarial image near each of M images, or None if it cannot be built.

    Args:
        network: Maps images (N, ...) to logits (N, K).
        x: Clean images, (N, ...).
        y: True labels, (N,) int64.
        norm: Shape of the ball.
        epsilon: Radius of the ball, in pixel units.
        batch_size: Largest number of images in one pass; None for the default.

    Returns:
        The network, whose class 0 is right for the M images; the images, (M, ...); and whether a random search with 64
        points finds an adversarial image of each, (M,) bool.
    """
    batches = None if batch_size is None else Batches(batch_size)
    with frozen(network), torch.no_grad():
        features = penultimate(network, x[: min(batch_size or 2, 2)])
        if features is None:
            return None
        margins = -margin(predict(network, x, batches), y)
        kept = _separated(x, margins > 0, norm, epsilon)
        if len(kept) < FEWEST:
            return None
        x, margins = x[kept], margins[kept].cpu().double()
        size = broadcast_per_image(torch.full((len(x),), epsilon, dtype=x.dtype, device=x.device), x)
        noise = ImageNoise.of(0, torch.arange(len(x), device=x.device))

        def surface(number: int) -> Tensor:
            return norm.inside(x, size * norm.ascent(noise.fork(number).normal(x)), size)

        def features_of(points: Tensor) -> Tensor:
            return predict(features, points, batches).cpu().double()

        inside = [norm.inside(x, norm.sample(x, size, noise.fork(SURFACE + number)), size) for number in range(INSIDE)]
        others = torch.stack([features_of(points) for points in (x, *inside, *map(surface, range(SURFACE)))], 1)
        planted = surface(SURFACE + INSIDE)
        planted_features = features_of(planted)
        weight = _discriminant(others, planted_features)
        heights = torch.einsum("mpd,md->mp", others, weight)
        low, high = heights.amax(1), (planted_features * weight).sum(1)
        threshold = low + THRESHOLD * (high - low)
        # The logit difference at the clean image is the margin of the network there, so that losses behave as before.
        scale = margins / (threshold - heights[:, 0])
        built = ((high > low) & torch.isfinite(scale)).to(x.device)
        if int(built.sum()) < FEWEST:
            return None
        body = ChangedNetwork(features, x, norm, weight * scale[:, None], threshold * scale, margins).select(built)

        def fooled(points: Tensor) -> Tensor:
            return predict(body, points[built], batches).argmax(1) != 0

        # Checked again, because the changed network computes in the precision of the images.
        sure = fooled(planted) & ~fooled(x)
        if int(sure.sum()) < FEWEST:
            return None
        found = torch.stack([fooled(surface(SURFACE + INSIDE + 1 + number)) for number in range(SEARCH)]).any(0)
        return body.select(sure), x[built][sure], found[sure]


def penultimate(network: nn.Module, x: Tensor) -> nn.Module | None:
    """Returns a copy of the network without its final `nn.Linear`, or None if its logits are not the output of one.

    Args:
        network: Maps images (N, ...) to logits (N, K).
        x: A few images, (N, ...), to compare the logits on.
    """
    linear = [name for name, module in network.named_modules() if name and isinstance(module, nn.Linear)]
    logits = network(x)
    # The final layer is usually defined last.
    for name in reversed(linear):
        last = network.get_submodule(name)
        if logits.ndim != 2 or last.out_features != logits.shape[1]:
            continue
        try:
            features = copy.deepcopy(network)
            parent, _, own = name.rpartition(".")
            setattr(features.get_submodule(parent), own, nn.Identity())
            values = features(x)
            if values.ndim == 2 and torch.allclose(last(values), logits, rtol=1e-4, atol=1e-5):
                return features
        except Exception:  # The layer is used elsewhere, or the network cannot be copied.
            continue
    return None


def _separated(x: Tensor, right: Tensor, norm: Norm, epsilon: float) -> list[int]:
    """Returns up to 64 correctly classified images whose balls do not meet. The nearest image of a point is then known."""
    kept: list[int] = []
    for i in right.nonzero().flatten().tolist():
        if not kept or float(norm.size(x[kept] - x[i]).min()) > 2.001 * epsilon:
            kept.append(i)
        if len(kept) == IMAGES:
            break
    return kept


def _discriminant(others: Tensor, planted: Tensor) -> Tensor:
    """Returns the direction of a regularised linear discriminant for each image, (M, D).

    Args:
        others: Features of the P points of class 0, (M, P, D).
        planted: Features of the point of class 1, (M, D).
    """
    centred = others - others.mean(1, keepdim=True)
    gap = planted - others.mean(1)
    gram = centred @ centred.transpose(1, 2)
    # Ridge of the mean variance of the points. Woodbury's identity turns a D x D system into a P x P system.
    ridge = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    system = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    inner = torch.linalg.solve(system, centred @ gap[:, :, None])
    direction: Tensor = gap - (centred.transpose(1, 2) @ inner)[:, :, 0]
    return direction


@final
class ChangedNetwork(nn.Module):
    """Features of a network, followed by a linear classifier of two classes for each of M images.

    The classifier of a point is that of the nearest image. A third class never wins; it is for losses that need three.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    margins: Tensor

    def __init__(self, features: nn.Module, x: Tensor, norm: Norm, weight: Tensor, bias: Tensor, margins: Tensor) -> None:
        super().__init__()
        self.features, self.norm = features, norm
        for name, value in (("x", x), ("weight", weight), ("bias", bias), ("margins", margins)):
            self.register_buffer(name, value.to(x))

    def select(self, images: Tensor) -> ChangedNetwork:
        """Returns the network for some of the images, (M,) bool."""
        kept = (self.x[images], self.norm, self.weight[images], self.bias[images], self.margins[images])
        return ChangedNetwork(self.features, *kept)

    def forward(self, points: Tensor) -> Tensor:
        """Returns logits, (N, 3), of points (N, ...)."""
        with torch.no_grad():
            image = torch.stack([self.norm.size(points - one) for one in self.x], 1).argmin(1)
        height = (self.features(points) * self.weight[image]).sum(1) - self.bias[image]
        return torch.stack([-height / 2, height / 2, -3 * self.margins[image]], 1)
