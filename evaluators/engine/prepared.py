"""A network and its test images, prepared once for all attacks."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from evaluators.engine.batches import FORWARD_ONLY, Batches, find_batches
from evaluators.engine.fast_inference import MIN_ATTEMPTS_TO_FUSE, inference
from evaluators.engine.input_checks import check_images, check_labels, check_logits, check_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@final
@dataclass(frozen=True)
class PreparedNetwork:
    """A frozen network with its images and clean logits, shared by all attacks.

    Attributes:
        network: Frozen network, optimised for speed.
        x: Clean images, (N, ...).
        y: True labels, (N,).
        logits: Logits of the clean images, (N, K).
        batches: Batch sizes.
        first: Number of the first image, if these are a part of more images. It selects the random numbers of the images.
    """

    network: nn.Module
    x: Tensor
    y: Tensor
    logits: Tensor
    batches: Batches
    first: int = 0

    def right(self) -> Tensor:
        """Returns whether each clean image is classified correctly, (N,) bool."""
        return self.logits.argmax(1) == self.y

    def part(self, images: slice) -> PreparedNetwork:
        """Returns the network with some of its images, without a copy. Each image keeps its random numbers."""
        start = images.indices(len(self.x))[0]
        return replace(self, x=self.x[images], y=self.y[images], logits=self.logits[images], first=self.first + start)


@contextmanager
def prepare(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int | None = None,
    *,
    attempts: int = MIN_ATTEMPTS_TO_FUSE,
    progress: Callable[[float], None] | None = None,
) -> Iterator[PreparedNetwork]:
    """Yields a network prepared for attacks on images x with labels y, and restores its state afterwards.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K).
        x: Clean images, (N, ...), pixels in [0, 1].
        y: True labels, (N,) int64.
        batch_size: Images in one pass through the network; estimated from the memory that one image needs if None.
        attempts: Expected number of attempts on each image: attacks times epsilons. If the attempts on all images are few,
            the network is not optimised for speed.
        progress: Function called with the completed fraction of the clean images, between 0 and 1.

    Raises:
        TypeError: network, x or y has the wrong type.
        ValueError: x or y is out of range, batch_size is below 1, or the network's output is not (N, K) finite logits.
    """
    check_module(network)
    check_images(x)
    with inference(network, x, attempts * len(x)) as fast:
        batches = find_batches(fast, x)[0] if batch_size is None else Batches(batch_size)
        logits = predict(fast, x, batches, progress=progress)
        check_labels(y, len(x), logits.shape[1])
        yield PreparedNetwork(fast, x, y, logits, batches)


def predict(
    network: nn.Module,
    x: Tensor,
    batches: Batches | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Returns the logits (N, K) of images x (N, ...), without gradients. The network keeps its current mode.

    Args:
        network: Maps images (N, ...) to logits (N, K).
        x: Images, (N, ...).
        batches: Batch sizes; passes of 256 images if None.
        progress: Function called with the completed fraction, between 0 and 1.

    Raises:
        ValueError: the network's output is not (N, K) finite logits.
    """

    def work(index: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = network(x[index])
        check_logits(logits, len(index))
        return logits

    index = torch.arange(len(x), device=x.device)
    return torch.cat([logits for _, logits in (batches or Batches(FORWARD_ONLY)).over(index, work, progress=progress)])
