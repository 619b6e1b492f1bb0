"""NaN and infinite entries of gradients: they are set to 0, with a warning."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# Whether the gradient at each point is unusable, for each pass inside `one_gradient_warning`; None outside.
_COLLECTED: ContextVar[list[Tensor] | None] = ContextVar("_COLLECTED", default=None)


def usable(gradient: Tensor) -> Tensor:
    """Returns gradients (N, ...) with zeros in place of NaN and infinite entries, and warns if there are any.

    Inside `one_gradient_warning`, the warning comes at the end of the context.
    """
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(_unusable(gradient))
        return gradient.nan_to_num(0.0, 0.0, 0.0)
    if bool(gradient.sum().isfinite()):
        return gradient
    _warn(_unusable(gradient), stacklevel=3)
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _unusable(gradient: Tensor) -> Tensor:
    """Returns whether each gradient (N, ...) has NaN or infinite entries, (N,) bool."""
    return gradient.isfinite().flatten(1).all(1).logical_not()


@contextmanager
def one_gradient_warning() -> Iterator[None]:
    """Collects the warnings of `usable` into one at the end of the context.

    Inside the context, attacks of a fixed number of steps do not wait for a GPU. Each warning would wait for it, because its
    condition depends on the values of a gradient.
    """
    unusable: list[Tensor] = []
    token = _COLLECTED.set(unusable)
    try:
        yield
    finally:
        _COLLECTED.reset(token)
    if unusable:
        _warn(torch.cat(unusable), stacklevel=5)  # The frames between are those of the context manager.


def _warn(unusable: Tensor, stacklevel: int) -> None:
    """Warns if gradients are unusable, (N,) bool. The stack level is that of `warnings.warn`, seen from here."""
    count = int(unusable.sum())
    if count:
        warnings.warn(
            f"the network's gradient has NaN or infinite entries at {count} of {len(unusable)} points; these entries are "
            "set to 0. A common cause is a square root at 0: add a small constant under the root",
            stacklevel=stacklevel,
        )
