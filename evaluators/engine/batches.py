"""Batches that fit into memory: their size is found, not asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

T = TypeVar("T")
LARGEST = 1024
# On a CPU, what the passes of one batch may take: more is slower, for it leaves the caches and its pages are asked for anew
# each time. Fixed, not a share of what is free at the time, so that a run repeated on one machine has the same batches.
CPU_BYTES = 40 << 20
# Fewer images than this make poor use of the weights that a pass reads: while they fit into so much memory, they are taken.
CPU_LEAST, CPU_MOST_BYTES = 32, 512 << 20
CUDA_SHARE = 0.25
# Of passes that keep nothing for a backward pass.
FORWARD_ONLY = 256
# What the pixels of one loop of an attack may take; it holds several tensors of that size.
LOOP_BYTES = 16 << 20


@final
@dataclass
class Batches:
    """Splits work into batches, and halves them where memory runs out.

    Attributes:
        size: The largest number of images in one pass.
        loop: The largest number of images in one loop of an attack, which splits its passes itself: as it drops the images
            that are fooled, those left of many still fill a pass. At least `size`.
    """

    size: int
    loop: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"batch_size must be at least 1, or None to find it, got {self.size}")
        self.loop = max(self.loop, self.size)

    def over(self, index: Tensor, work: Callable[[Tensor], T], *, loops: bool = False) -> Iterator[tuple[Tensor, T]]:
        """Yields each batch of image indices (N,) with the work's result for it; a batch that does not fit is halved.

        Args:
            index: The images.
            work: What to do with some of them.
            loops: The work is a loop of an attack instead of one pass.

        Raises:
            torch.OutOfMemoryError: not even one image fits.
        """
        start = 0
        while start < len(index):
            batch = index[start : start + (self.loop if loops else self.size)]
            try:
                result = work(batch)
            except RuntimeError as error:
                if not _out_of_memory(error) or len(batch) == 1:
                    raise
                self.loop = len(batch) // 2
                self.size = max(1, min(self.size // 2, self.loop))
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield batch, result
            start += len(batch)


def forward(network: nn.Module, points: Tensor, one_pass: int) -> Tensor:
    """Returns the logits (N, K) at points (N, ...), unchecked, without gradients, in passes of at most so many points."""
    with torch.no_grad():
        # Copies, for a first layer may work in place.
        return torch.cat([network(part.clone()) for part in points.split(one_pass)])


def find_batches(network: nn.Module, x: Tensor) -> tuple[Batches, Tensor]:
    """Returns batches for passes of the network over images x (N, ...), and the logits (1, K) of the first.

    A pass goes forward and backward. What the first image needs is what every image is taken to need; of a network that
    takes no images with gradients, which only black-box attacks can attack, it is not known.
    """
    try:
        kept, logits = activation_bytes(network, x[:1])
    except Exception:  # If gradients are not to blame, it is raised again here.
        with torch.no_grad():
            return Batches(FORWARD_ONLY), network(x[:1].clone())
    needed = max(1, kept)
    if x.device.type == "cuda":
        most = int(CUDA_SHARE * torch.cuda.get_device_properties(x.device).total_memory) // needed
    else:
        most = max(CPU_BYTES // needed, min(CPU_LEAST, CPU_MOST_BYTES // needed))
    size = max(1, min(LARGEST, most))
    # A multiple of 16 where it can be: a number of images that vector units and threads share evenly.
    size -= size % 16 if size > 16 else 0
    return Batches(size, min(LARGEST, LOOP_BYTES // (x[0].numel() * x.element_size()))), logits


def activation_bytes(network: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Returns the bytes that a forward pass of x keeps for the backward pass, twice for its gradients, and its logits."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        # Held until the bytes are counted: storage that is freed meanwhile would be handed out, and counted, again.
        logits = network(x.detach().requires_grad_().clone())
    total = sum(size for pointer, size in kept.items() if pointer not in weights)
    return 2 * total, logits.detach() if isinstance(logits, Tensor) else logits


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
