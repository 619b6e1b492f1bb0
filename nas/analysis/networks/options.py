"""Options for opening a network that is not a bundle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from nas.validation import raise_if_invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_SIDE = 4096


@final
@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options that adapt a network's input and output, and the weights of a library's model.

    The images are resized first, then normalised. Both happen inside the network. Attacks therefore change the pixels of the
    data set itself, before the resize, and epsilon is in units of these pixels.

    Attributes:
        output: Part of the output that holds the logits: a key of a dict, the name of an attribute, or an index. None if
            the network returns the logits alone.
        mean: Mean that is subtracted from the pixels, in pixel units: one number, or one per channel. None for none.
        std: Standard deviation by which the difference is divided, in pixel units: one number, or one per channel.
        resize: Side to which images are resized, in pixels. Images become square. None for no resize.
        weights: File of weights of a model of torchvision or timm: .safetensors, or a state dict of torch.save.

    Raises:
        ValidationError: a number is out of range, or only one of mean and std is given.
    """

    output: str | int | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    resize: int | None = None
    weights: Path | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if self.weights is not None:
            object.__setattr__(self, "weights", Path(self.weights))
        raise_if_invalid(_faults(self))

    def adaptations(self) -> list[str]:
        """Returns the names of the given options that adapt input or output."""
        return [name for name in ("output", "mean", "std", "resize") if getattr(self, name) is not None]


def _faults(options: NetworkOptions) -> list[tuple[str, str]]:
    faults = []
    if options.output is not None and (isinstance(options.output, bool) or not isinstance(options.output, str | int)):
        faults.append(("output", f"must be a key, the name of an attribute or an index, got {options.output!r}"))
    elif options.output == "":
        faults.append(("output", "must not be empty"))
    for name, other in (("mean", "std"), ("std", "mean")):
        value = getattr(options, name)
        if value is None:
            if getattr(options, other) is not None:
                faults.append((name, f"must be given together with {other}; without normalisation, leave out both"))
            continue
        if problem := _problem(channel_values(value), positive=name == "std"):
            faults.append((name, problem))
    sizes = {len(channel_values(value)) for value in (options.mean, options.std) if value is not None}
    if not faults and len(sizes - {1}) > 1:
        mean, std = (len(channel_values(value or 0)) for value in (options.mean, options.std))
        faults.append(("std", f"must have one number, or one per channel as mean has: {mean} numbers in mean, {std} in std"))
    side = options.resize
    if side is not None and (isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= LARGEST_SIDE):
        faults.append(("resize", f"must be a side in pixels, from 1 to {LARGEST_SIDE}, got {side!r}"))
    return faults


def _problem(values: Sequence[object], *, positive: bool) -> str | None:
    """Returns what is wrong with the numbers of mean or std; None if nothing is."""
    rule = "must be one number, or one per channel,"
    if not values:
        return f"{rule} got none"
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{rule} got {value!r}"
        if value > 1:
            return f"must be in pixel units, where pixels are in [0, 1], got {value:g}; divide by 255"
        if value < 0 or (positive and value == 0):
            return f"must be {'above 0' if positive else 'at least 0'} and at most 1, got {value:g}"
    return None


def channel_values(value: float | Sequence[float]) -> tuple[float, ...]:
    """Returns one number, or one number per channel, as a tuple."""
    return (value,) if isinstance(value, int | float) else tuple(value)
