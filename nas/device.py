"""Devices and CPU threads."""

from __future__ import annotations

import torch

from nas.errors import RunError, first_line

SMALL_IMAGE = 256


def set_threads(threads: int | None, pixels: int) -> None:
    """Sets the number of CPU threads.

    For small images, one thread is nearly as fast as two on an idle machine and 20 times as fast on a busy one. The work
    between two synchronisations is shorter than the wait for a preempted thread.

    Args:
        threads: Number of threads; None for 1 for small images and for torch's default otherwise.
        pixels: Number of pixels of an image, height times width.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif pixels <= SMALL_IMAGE:
        torch.set_num_threads(1)


def open_device(name: str) -> torch.device:
    """Returns the device of a name. For auto it is cuda, mps or cpu, the first available.

    Raises:
        RunError: the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"device must be one that this machine has, got {name!r}: {first_line(error)}") from error
    return device
