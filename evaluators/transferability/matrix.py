"""Transfer of adversarial images: each network is attacked, and its adversarial images are tested on all networks.

Source: Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning: from Phenomena to Black-Box Attacks using
Adversarial Samples", arXiv:1605.07277, for the matrix of sources and targets: the share of the images crafted on the source
that the target misclassifies. Addition to the paper: all cells use the same images, which all networks classify correctly.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.attacks.base import check_attack
from evaluators.attacks.gradient_oracle import misclassified
from evaluators.engine.batches import forward
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import as_grid, check_epsilons, check_images, check_module
from evaluators.engine.noise import ImageNoise, stream_of
from evaluators.engine.prepared import PreparedNetwork, predict, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from evaluators.attacks.base import Attack

Integers = NDArray[np.int64]
# With 10 images the 95 % interval of a share is up to 0.63 wide. With fewer images it can be wider.
LEAST = 10


class TooFewImagesError(ValueError):
    """Raised if fewer than `LEAST` images are classified correctly by all networks."""


@final
@dataclass(frozen=True)
class TransferMatrix:
    """Transfer of N adversarial images between S source networks and T = S target networks, at E epsilons.

    Attributes:
        names: Names of the networks, in the order of sources and targets, (S,).
        epsilons: Epsilons, in pixel units, (E,).
        fooled: Whether the target misclassifies the image crafted on the source, (E, S, T, N). The diagonal is the attack on
            the source itself.
        index: Indices of the images used, (N,): all networks classify them correctly when clean.
        given: Number of images in the input.
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
    """Attacks each network, and returns which of its adversarial images fool each network.

    Each image is crafted once per source and epsilon, and tested on all targets. The attack does not stop at the first point
    that fools the source: that point lies just beyond the boundary of the source and transfers poorly. As a consequence, the
    last point of an attack may not fool the source although an earlier point did. So the diagonal can be below the flip rate
    of the error curve. Ensembles of attacks and minimum-norm attacks return points near the boundary, so their matrix
    underestimates transfer.

    Only images that all networks classify correctly are used, so that all sources and targets are compared on the same
    images. These images are easier than average.

    Args:
        networks: At least two networks by name, with the same classes. Each maps images (N, ...) with pixels in [0, 1] to
            logits (N, K), and is unchanged.
        x: Clean images with pixels in [0, 1], (N, ...).
        y: True labels, (N,) int64.
        attack: Attack that crafts the images.
        epsilons: Epsilons in pixel units, strictly increasing, (E,).
        seed: Seed of the random numbers of the attack. Results do not depend on the batch size or on the other epsilons.
        batch_size: Images in one pass through a network; None to choose it from the memory that one image needs.
        progress: Called with the completed share of the work, between 0 and 1.

    Raises:
        TypeError: networks is not a mapping, or x, y, attack or a network has the wrong type.
        TooFewImagesError: fewer than ten images are classified correctly by all networks.
        ValueError: there are fewer than two networks, their classes differ, or x, y or an epsilon is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import FGSM, transfer_matrix, transfer_rates
        >>> networks = {"first": nn.Identity(), "second": nn.Hardtanh()}  # The pixels are the logits.
        >>> x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
        >>> matrix = transfer_matrix(networks, x, x.argmax(1), FGSM(), epsilons=[0.5])
        >>> transfer_rates(matrix).share.shape  # (epsilons, sources, targets)
        (1, 2, 2)
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
    """Checks that all networks have the same number of classes.

    This check is done first, because a wrong number of classes would otherwise be reported as labels out of range.

    Raises:
        TypeError: a network is not a module.
        ValueError: the numbers of logits differ, or a network does not return logits.
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
    """Returns the indices of the images that all networks classify correctly, (M,).

    Args:
        right: Whether each network classifies each image correctly, (N,) bool, by name of the network.

    Raises:
        TooFewImagesError: there are fewer than `LEAST` such images.
    """
    kept = torch.stack(list(right.values())).all(0).nonzero().squeeze(1)
    if len(kept) < LEAST:
        n = len(next(iter(right.values())))
        counts = ", ".join(f"{name} {int(mask.sum())}" for name, mask in right.items())
        raise TooFewImagesError(
            f"only {len(kept)} of {n} images are classified correctly by all networks, transfer needs at least {LEAST}; "
            f"use more images, or leave out the network with the fewest correct images: {counts}"
        )
    return kept


def _tried(
    source: PreparedNetwork, targets: Sequence[PreparedNetwork], attack: Attack, epsilon: float, kept: Tensor, seed: int
) -> Iterator[Tensor]:
    """Yields whether the images crafted on the source fool each target, (T, B), for each batch of B images of `kept`."""

    def work(batch: Tensor) -> Tensor:
        x, y = source.x[batch], source.y[batch]
        size = torch.full((len(batch),), epsilon, dtype=x.dtype, device=x.device)
        # The same random numbers as `radii` uses for an image at this epsilon, so that both run the same attack.
        noise, most = ImageNoise.of(seed, batch, stream_of(epsilon)), source.batches.size
        points, _ = attack.generate(source.network, x, y, size, noise, stop_when_fooled=False, one_pass=most)
        return torch.stack([misclassified(forward(one.network, points, one.batches.size), y) for one in targets])

    for _, fooled in source.batches.over(kept, work, loops=True):
        yield fooled
