"""Augmentation of a whole batch on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def augment(x: Tensor, *, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Returns randomly shifted and mirrored images, (N, C, H, W). Pixels that a shift uncovers are zero.

    Args:
        x: Images, (N, C, H, W).
        shift: Largest shift in pixels, in each direction along each axis.
        flip: Mirror each image left to right with probability 1/2.
        generator: Generator on the CPU, so that the random numbers do not depend on the device.
    """
    n, _, height, width = x.shape
    if shift:
        offsets = torch.randint(0, 2 * shift + 1, (2, n), generator=generator).to(x.device)
        padded = F.pad(x, (shift, shift, shift, shift))
        rows = (offsets[0, :, None] + torch.arange(height, device=x.device))[:, None, :, None]
        columns = (offsets[1, :, None] + torch.arange(width, device=x.device))[:, None, None, :]
        images = torch.arange(n, device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        x = padded[images, channels, rows, columns]
    if flip:
        mirrored = (torch.rand(n, generator=generator) < 0.5).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    return x
