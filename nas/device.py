"""Where the work runs."""

from __future__ import annotations

import torch

from nas.errors import RunError, first_line

SMALL_IMAGE = 256


def set_threads(threads: int | None, pixels: int) -> None:
    """Sets the number of CPU threads; None for what suits images of this many pixels.

    On small images one thread is nearly as fast as two on an idle machine, and 20 times as fast on a busy one: the work
    between two meetings of the threads is shorter than the wait for a thread that another process keeps from its core.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif pixels <= SMALL_IMAGE:
        torch.set_num_threads(1)


def open_device(name: str) -> torch.device:
    """Returns the device of this name, auto for the best there is.

    Raises:
        RunError: there is no such device here.
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
