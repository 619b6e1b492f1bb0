"""Batches that fit into memory. Their size is estimated from the memory that the network needs for one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from evaluators.engine.folding import folded_weights
from evaluators.engine.input_checks import check_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

T = TypeVar("T")
LARGEST = 1024
# Memory for a forward and backward pass of one batch on a CPU. Larger batches are slower: their memory exceeds the caches,
# and is allocated again for every batch. The number is fixed instead of a share of the free memory, so that repeated runs
# have the same batches.
CPU_BYTES = 40 << 20
# Smallest batch on a CPU, unless it needs more than CPU_MOST_BYTES of memory. Smaller batches spend too much time on reading
# the weights.
CPU_LEAST, CPU_MOST_BYTES = 32, 512 << 20
CUDA_SHARE = 0.25
# Batch size of forward passes without gradients.
FORWARD_ONLY = 256
# What other errors say when the memory runs out: of a CPU; of MPS and CUDA's driver; of cuBLAS and cuDNN.
_OUT_OF_MEMORY = ("not enough memory", "out of memory", "status_alloc_failed")
# Memory for the pixels of one attack loop. The loop holds several tensors of this size.
LOOP_BYTES = 16 << 20


@final
@dataclass
class Batches:
    """Splits work into batches, and halves the batch size when memory runs out.

    Attributes:
        size: Largest number of images in one pass.
        loop: Largest number of images in one attack loop, at least `size`. An attack loop runs all steps of an attack, in
            passes of at most `size` images. It drops fooled images; the images that are left share the passes.

    Raises:
        ValueError: size is below 1.
    """

    size: int
    loop: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"batch_size must be at least 1, or None to estimate it, got {self.size}")
        self.loop = max(self.loop, self.size)

    def over(
        self,
        index: Tensor,
        work: Callable[[Tensor], T],
        *,
        loops: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[tuple[Tensor, T]]:
        """Yields each batch of image indices with the result of `work` for it. A batch that does not fit is halved.

        Args:
            index: Image indices, (N,).
            work: Function from a batch of indices to a result.
            loops: Whether the work is an attack loop instead of one pass.
            progress: Function called with the completed fraction, between 0 and 1, after each batch.

        Raises:
            RuntimeError: a single image does not fit (torch.OutOfMemoryError on a GPU), or `work` raises it for another
                reason.
        """
        start = 0
        while start < len(index):
            batch = index[start : start + (self.loop if loops else self.size)]
            try:
                result = work(batch)
            except RuntimeError as error:
                if not out_of_memory(error) or len(batch) == 1:
                    raise
                self.loop = len(batch) // 2
                self.size = max(1, min(self.size // 2, self.loop))
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield batch, result
            start += len(batch)
            if progress is not None:
                progress(start / len(index))


def forward(network: nn.Module, points: Tensor, one_pass: int) -> Tensor:
    """Returns the logits (N, K) at points (N, ...), without gradients or checks, in passes of at most `one_pass` points."""
    with torch.no_grad():
        # Copies, as the first layer may work in place.
        return torch.cat([network(part.clone()) for part in points.split(one_pass)])


def find_batches(network: nn.Module, x: Tensor) -> tuple[Batches, Tensor]:
    """Returns batch sizes for forward and backward passes over images x (N, ...), and the first image's logits (1, K).

    Every image is assumed to need as much memory as the first. If the network cannot be differentiated, so that only
    black-box attacks work, the batch size is `FORWARD_ONLY`.

    Raises:
        ValueError: the network fails, and none of its parameters has the dtype of the images.
    """
    try:
        kept, logits = activation_bytes(network, x[:1])
    except Exception:  # An error that is not due to gradients is raised again below.
        check_format(network, x)
        with torch.no_grad():
            return Batches(FORWARD_ONLY), network(x[:1].clone())
    needed = max(1, kept)
    if x.device.type == "cuda":
        most = int(CUDA_SHARE * torch.cuda.get_device_properties(x.device).total_memory) // needed
    else:
        most = max(CPU_BYTES // needed, min(CPU_LEAST, CPU_MOST_BYTES // needed))
    size = max(1, min(LARGEST, most))
    # A multiple of 16 where possible, so that vector units and threads share the images evenly.
    size -= size % 16 if size > 16 else 0
    return Batches(size, min(LARGEST, LOOP_BYTES // (x[0].numel() * x.element_size()))), logits


def activation_bytes(network: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Returns the estimated memory of a forward and backward pass of x, in bytes, and the logits.

    The estimate is twice the memory that the forward pass keeps for the backward pass, to allow for the gradients.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in (*network.parameters(), *folded_weights(network))}
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        # The logits keep the saved tensors alive until their sizes are summed. Otherwise a new tensor could have the address
        # of a freed one, and replace its entry in `kept`.
        logits = network(x.detach().requires_grad_().clone())
    total = sum(size for pointer, size in kept.items() if pointer not in weights)
    return 2 * total, logits.detach() if isinstance(logits, Tensor) else logits


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of torch says that the memory of the device or of the machine ran out."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(part in text for part in _OUT_OF_MEMORY)
