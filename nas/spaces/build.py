"""Builds the untrained network of a stored architecture at any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nas.errors import NetworkError, format_error
from nas.spaces.options import open_space
from nas.spaces.stored import FILE, read_stored

if TYPE_CHECKING:
    from torch import nn


def build(
    architecture: Path | str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    channels: int | None = None,
    seed: int | None = None,
    trust: bool = False,
) -> nn.Module:
    """Returns the untrained network of a bundle's architecture.yaml: images (N, C, H, W) to logits (N, K).

    The network does not include normalisation.

    Args:
        architecture: The file, or the folder of the bundle.
        input_shape: Channels, height and width of the images; None for the values in the file.
        num_classes: Number of classes K; None for the value in the file.
        channels: Option `channels` of the space, the width of the network; None for the value in the file.
        seed: Seed of the weights; None to draw them from torch's global generator.
        trust: Import the code of a custom search space.

    Raises:
        NetworkError: the file holds no architecture, its space is custom and not trusted, an argument is out of range, or
            the network cannot be built.

    Example:
        >>> import nas
        >>> bundle = nas.read_run("runs/digits").bundles[0]
        >>> network = nas.build(bundle.folder, input_shape=(3, 32, 32), num_classes=100, channels=16)
    """
    path = Path(architecture).expanduser()
    path = path / FILE if path.is_dir() else path
    try:
        stored = read_stored(path)
    except ValueError as error:
        raise NetworkError(f"{path}: {error}") from error
    config = stored.space
    if channels is not None:
        config = replace(config, options={**config.options, "channels": channels})
    shape = stored.input_shape if input_shape is None else input_shape
    classes = stored.num_classes if num_classes is None else num_classes
    if not isinstance(shape, Sequence) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise NetworkError(f"{path}: input_shape must be (channels, height, width), each at least 1, got {shape!r}")
    if not isinstance(classes, int) or classes < 1:
        raise NetworkError(f"{path}: num_classes must be an integer of at least 1, got {classes!r}")
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise NetworkError(f"{path}: channels must be an integer of at least 1, got {channels!r}")
    try:
        space = open_space(config, trust=trust)
        choices = space.validate(stored.architecture)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            return space.build(choices, (shape[0], shape[1], shape[2]), classes)
    except Exception as error:  # A custom space may raise any error.
        raise NetworkError(f"{path}: no network can be built: {format_error(error)}") from error
