"""Choice between float32 and bfloat16 by measuring a training step."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from evaluators.engine.channels_last import is_channels_last

if TYPE_CHECKING:
    from torch import Tensor, nn

# Smallest ratio of the seconds of float32 to those of bfloat16 for bfloat16 to be chosen. Where the gain is smaller, short
# trainings learn less in it than they gain in speed (examples/results/benchmarks.md).
GAIN = 1.5
# On a CPU, a step of fewer seconds is bound by calls of operations, so bfloat16 gains nothing. It is not measured, and
# trainings of tiny networks do not depend on a measurement.
SHORT = 0.02
ROUNDS = 3


Precision = Literal["float32", "bfloat16"]


def default_precision(device: torch.device) -> Precision:
    """Returns the precision of `auto` where no step is measured: bfloat16 on GPUs that support it, float32 elsewhere."""
    return "bfloat16" if device.type == "cuda" and has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether a device may compute faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def faster_precision(network: nn.Module, x: Tensor) -> Precision:
    """Returns the precision in which a training step is faster: bfloat16 if it is at least `GAIN` times as fast.

    It changes neither the network nor torch's random generators.

    Args:
        network: The network, on the device of the images.
        x: Images of one batch, (N, C, H, W).
    """
    if not has_bfloat16(x.device):
        return "float32"
    if x.ndim == 4 and is_channels_last(network):
        x = x.contiguous(memory_format=torch.channels_last)
    try:
        copied = copy.deepcopy(network).train()
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            float32 = min(_seconds(copied, x, bfloat16=False) for _ in range(ROUNDS))
            if x.device.type == "cpu" and float32 < SHORT:
                return "float32"
            bfloat16 = min(_seconds(copied, x, bfloat16=True) for _ in range(ROUNDS))
    except Exception:  # The training itself will raise the error, or the network cannot be copied.
        return "float32"
    return "bfloat16" if float32 >= GAIN * bfloat16 else "float32"


def _seconds(network: nn.Module, x: Tensor, *, bfloat16: bool) -> float:
    """Returns the seconds of a forward and a backward pass of images x (N, C, H, W)."""
    started = time.perf_counter()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
        logits = network(x.clone())
        loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.int64, device=x.device))
    loss.backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
