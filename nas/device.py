"""Devices and CPU threads."""

from __future__ import annotations

import torch

from nas.errors import RunError, first_line

# Largest number of pixels (height times width) of a small image.
SMALL_IMAGE = 256


def set_threads(threads: int | None, pixels: int) -> None:
    """Sets the number of CPU threads.

    For small images, one thread is nearly as fast as two threads on an idle machine, and 20 times as fast on a busy machine.
    With several threads, each operation waits until all threads are done. On a busy machine, this wait is longer than the
    computation.

    Args:
        threads: Number of threads. With None, it is 1 for images of at most SMALL_IMAGE pixels, and unchanged otherwise.
        pixels: Number of pixels of an image, height times width.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif pixels <= SMALL_IMAGE:
        torch.set_num_threads(1)


def open_device(name: str) -> torch.device:
    """Returns the device with this name. The name auto stands for the first available one of cuda, mps and cpu.

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
