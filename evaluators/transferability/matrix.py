"""Do adversarial images carry over? Crafted on each of several networks, and tried on all the others.

Source: Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning: from Phenomena to Black-Box Attacks using
Adversarial Samples", arXiv:1605.07277, for the matrix of source and target: the share of the images crafted on the one that
the other misclassifies. Ours are: the same images, right under all networks, in every cell; the share among the images that
fooled the source; and the test of the asymmetry.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.attacks.base import check_attack
from evaluators.attacks.gradient_oracle import misclassified
from evaluators.curves.error_curves import Floats, binomial_interval
from evaluators.engine.batches import forward
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import as_grid, check_epsilons, check_images, check_module
from evaluators.engine.noise import ImageNoise, stream_of
from evaluators.engine.prepared import PreparedNetwork, predict, prepare
from evaluators.statistics.multiple_testing import holm
from evaluators.statistics.paired_tests import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from evaluators.attacks.base import Attack

Integers = NDArray[np.int64]
# The 95 % interval of a share of fewer images than this may span half of all shares and more.
LEAST = 10


class TooFewImagesError(ValueError):
    """Fewer images than `LEAST` are classified rightly by all networks."""


@final
@dataclass(frozen=True)
class TransferMatrix:
    """Which images, crafted on which of S networks, fool which of them, as targets T = S, at each of E epsilons.

    Attributes:
        names: Of the networks, in the order of sources and of targets.
        epsilons: In pixel units, (E,).
        fooled: Whether the image crafted on the source is misclassified by the target, (E, S, T, N). The diagonal is the
            attack on the source itself.
        index: Which of the images given were used: those that all networks classify rightly when clean, (N,).
        given: Number of images given.
    """

    names: tuple[str, ...]
    epsilons: tuple[float, ...]
    fooled: NDArray[np.bool_]
    index: Integers
    given: int

    @property
    def n(self) -> int:
        """Number of images used."""
        return len(self.index)


@final
@dataclass(frozen=True)
class Shares:
    """Counted images as shares of others: arrays of one shape (...), and intervals (..., 2).

    Attributes:
        counts: Images that count.
        of: Images of which they are a share.
        share: The one over the other; NaN where there are none to share.
        interval: Clopper-Pearson interval of the share; NaN likewise.
    """

    counts: Integers
    of: Integers
    share: Floats
    interval: Floats


@final
@dataclass(frozen=True)
class Asymmetry:
    """Transfer from one network to another against transfer back, on the same images at one epsilon.

    Attributes:
        first: Name of a network.
        second: Name of another.
        epsilon: In pixel units.
        difference: Share of all images that carry over from the first to the second, minus the share back.
        interval: Tango's score interval of the difference.
        p_value: Of the exact McNemar test, two-sided: how often equal transfer would differ as much.
        corrected: The p-value corrected by Holm for all the pairs and epsilons that were tested with it.
    """

    first: str
    second: str
    epsilon: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    corrected: float


def transfer_matrix(
    networks: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> TransferMatrix:
    """Returns which adversarial images of each network fool each network.

    Each image is crafted once for a source and an epsilon, and tried on all targets. The attack runs to its end instead of
    stopping at the first point that fools the source: such a point lies just beyond the source's own boundary, and carries
    over as little as a point can. The price: where a walk leaves a point that fooled, the image counts as not fooled, so
    the diagonal may lie below the flip rate of the error curve. An ensemble and a minimum-norm attack stop there by what
    they are, so their matrix is a lower bound. Of the images only those count that all the networks classify rightly, for
    otherwise sources and targets would be compared on different ones; the rates are of those images, which are easier than
    most.

    Args:
        networks: By name, two at least, over the same classes; each maps images (N, ...) with pixels in [0, 1] to logits
            (N, K) and is left as it was.
        x: Clean images, (N, ...).
        y: True labels, (N,) int64.
        attack: What crafts the images.
        epsilons: Strictly increasing, in pixel units.
        seed: Seed of whatever the attack draws. Results do not depend on the batch size, nor on the other epsilons.
        batch_size: Images in one pass through a network; found from the memory that one image needs if None.
        progress: Called with the share of the work that is done, between 0 and 1.

    Raises:
        TypeError: networks is no mapping, or x, y, attack or a network has the wrong type.
        TooFewImagesError: fewer than ten images are classified rightly by all networks.
        ValueError: there are fewer than two networks, their classes differ, or x, y or an epsilon is out of range.
    """
    if not isinstance(networks, Mapping):
        raise TypeError(f"networks must be a mapping from names to networks, got {type(networks).__name__}")
    if len(networks) < 2:
        raise ValueError(f"networks must hold at least two, a source and a target, got {len(networks)}")
    check_attack(attack)
    check_images(x)
    grid = as_grid(epsilons)
    check_epsilons(grid, attack.norm.largest(x[0].numel()))
    _check_classes(networks, x)
    with ExitStack() as stack:
        attempts = len(grid) * len(networks)
        prepared = [stack.enter_context(prepare(net, x, y, batch_size, attempts=attempts)) for net in networks.values()]
        kept = right_under_all({name: one.right() for name, one in zip(networks, prepared, strict=True)})
        fooled = np.zeros((len(grid), len(prepared), len(prepared), len(kept)), dtype=np.bool_)
        rounds = len(grid) * len(prepared)
        for e, epsilon in enumerate(grid):
            for s, source in enumerate(prepared):
                done = 0
                for batch_fooled in _tried(source, prepared, attack, epsilon, kept, seed):
                    fooled[e, s, :, done : done + batch_fooled.shape[1]] = batch_fooled.cpu().numpy()
                    done += batch_fooled.shape[1]
                    if progress is not None:
                        progress((e * len(prepared) + s + done / len(kept)) / rounds)
    return TransferMatrix(tuple(networks), tuple(grid), fooled, kept.cpu().numpy(), len(x))


def _check_classes(networks: Mapping[str, nn.Module], x: Tensor) -> None:
    """Checks that all networks have the same classes, before one of them is told to be at odds with the labels.

    Raises:
        TypeError: one of them is no module.
        ValueError: their numbers of logits differ, or one does not return logits.
    """
    classes = {}
    for name, network in networks.items():
        check_module(network)
        with frozen(network):
            classes[name] = predict(network, x[:1]).shape[1]
    if len(set(classes.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in classes.items())
        raise ValueError(f"the networks must have the same classes, got different numbers of logits: {counts}")


def right_under_all(right: Mapping[str, Tensor]) -> Tensor:
    """Returns the indices of the images that all networks classify rightly, (N,), from which each does, (N,) bool by name.

    Raises:
        TooFewImagesError: there are fewer of them than a matrix of transfer needs.
    """
    kept = torch.stack(list(right.values())).all(0).nonzero().squeeze(1)
    if len(kept) < LEAST:
        n = len(next(iter(right.values())))
        counts = ", ".join(f"{name} {int(mask.sum())}" for name, mask in right.items())
        raise TooFewImagesError(
            f"only {len(kept)} of {n} images are classified rightly by all networks, where transfer needs at least {LEAST}; "
            f"give more images, or leave out the network that is right on fewest: {counts}"
        )
    return kept


def _tried(
    source: PreparedNetwork, targets: Sequence[PreparedNetwork], attack: Attack, epsilon: float, kept: Tensor, seed: int
) -> Iterator[Tensor]:
    """Yields, for each batch of the images kept, which of those crafted on the source fool the targets, (T, B)."""

    def work(batch: Tensor) -> Tensor:
        x, y = source.x[batch], source.y[batch]
        size = torch.full((len(batch),), epsilon, dtype=x.dtype, device=x.device)
        # As `radii` draws for an image at this epsilon: the two agree on an attack that draws.
        noise, most = ImageNoise.of(seed, batch, stream_of(epsilon)), source.batches.size
        points, _ = attack.generate(source.network, x, y, size, noise, stop_when_fooled=False, one_pass=most)
        return torch.stack([misclassified(forward(one.network, points, one.batches.size), y) for one in targets])

    for _, fooled in source.batches.over(kept, work, loops=True):
        yield fooled


def transfer_rates(matrix: TransferMatrix, *, conditional: bool = False, confidence: float = 0.95) -> Shares:
    """Returns the share of the images crafted on each source that fool each target, arrays (E, S, T).

    Args:
        matrix: As `transfer_matrix` returns it.
        conditional: Among the images that fool the source, instead of among all: this tells how well what works carries
            over, the other how well the attack works on the target. The diagonal is 1 then.
        confidence: Of the intervals.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    if not conditional:
        counts = matrix.fooled.sum(-1)
        return shares_of(counts, np.full(counts.shape[:2], matrix.n), confidence)
    own = fools_source(matrix)
    return shares_of((matrix.fooled & own[:, :, None]).sum(-1), own.sum(-1), confidence)


def asymmetry(matrix: TransferMatrix, confidence: float = 0.95) -> list[Asymmetry]:
    """Returns, for each epsilon and each pair of networks, the paired test between the two directions of transfer.

    Of the images used, each is crafted on both networks of a pair and tried on the other. Equal transfer makes the images
    that carry over in one direction alone as many as those that do so in the other: the exact McNemar test.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    pairs = list(combinations(range(len(matrix.names)), 2))
    cells = [(e, a, b) for e in range(len(matrix.epsilons)) for a, b in pairs]
    # As radii at which 0 stands for an image that carries over: then the error at 0 is the transfer.
    radius = np.where(matrix.fooled, 0.0, np.inf)
    comparisons = [compare(radius[e, a, b], radius[e, b, a], 0.0, confidence) for e, a, b in cells]
    corrected = holm([one.p_value for one in comparisons])
    return [
        Asymmetry(
            matrix.names[a], matrix.names[b], matrix.epsilons[e], one.difference, one.interval, one.p_value, float(p_value)
        )
        for (e, a, b), one, p_value in zip(cells, comparisons, corrected, strict=True)
    ]


def fools_source(matrix: TransferMatrix) -> NDArray[np.bool_]:
    """Returns which images fool the source on which they were crafted, (E, S, N)."""
    return np.stack([matrix.fooled[:, s, s] for s in range(len(matrix.names))], axis=1)


def shares_of(counts: Integers, of: Integers, confidence: float) -> Shares:
    """Returns counts (..., T) or (...) as shares of the numbers (...)."""
    of = np.broadcast_to(of.reshape(of.shape + (1,) * (counts.ndim - of.ndim)), counts.shape)
    share, interval = np.full(counts.shape, np.nan), np.full((*counts.shape, 2), np.nan)
    for n in np.unique(of[of > 0]):
        at = of == n
        share[at] = counts[at] / n
        interval[at] = binomial_interval(counts[at].astype(np.float64), int(n), confidence)
    return Shares(counts, of, share, interval)
