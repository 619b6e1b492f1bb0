"""Checks of a space's canonical form: an architecture of the space, its own canonical form, of equal function."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from search_spaces.checks.space_under_test import CheckFailure, SpaceUnderTest, differ, during, logits, written

if TYPE_CHECKING:
    from search_spaces.space import Architecture

# Weights that do not tell channels apart are drawn so many times: a network of such weights may be dead by chance.
DRAWS = 3


def canonical_valid(subject: SpaceUnderTest) -> str:
    """The canonical form is an architecture of the space, with all its names; what is given stays as it is."""
    for architecture in subject.many:
        given = dict(architecture)
        with during("canonical", architecture):
            form = subject.space.canonical(given)
        if given != architecture:
            raise CheckFailure("canonical changes the architecture that it is given; let it work on a copy", architecture)
        if not isinstance(form, Mapping):
            raise CheckFailure(f"canonical must return a dict, got {type(form).__name__}", architecture)
        with during("the canonical form is no architecture of the space: validate", architecture):
            subject.space.validate(form)
    return f"{len(subject.many)} architectures"


def canonical_idempotent(subject: SpaceUnderTest) -> str:
    """The canonical form is its own canonical form."""
    for architecture in subject.many:
        form = subject.form(architecture)
        again = None if form is None else subject.form(form)
        if form is not None and again is not None and written(form) != written(again):
            names = [name for name in form if form[name] != again[name]]
            where = f"{names[0]!r} first {form[names[0]]!r}, then {again[names[0]]!r}" if names else "the order of its names"
            raise CheckFailure(f"the canonical form of the canonical form is another one: {where}", architecture)
    return f"{len(subject.many)} architectures"


def canonical_equal_functions(subject: SpaceUnderTest) -> str:
    """Architectures compute what their canonical forms compute, so those of equal form compute the same.

    Weights depend on nothing but their shape, so that a layer has the same ones wherever it stands in the network. If the
    logits differ even so, the canonical form may have put what is concatenated in another order: they are compared once
    more under weights that do not tell channels apart. What this cannot see: that two layers of one kind on one input, each
    with its own weights, were made one layer that feeds both places.
    """
    compared = 0
    for architecture in subject.many:
        form = subject.form(architecture)
        if form is None or written(form) == written(architecture):
            continue
        try:
            network = _Refillable(subject, architecture)
        except Exception:  # `builds` and `shapes` tell of it.
            continue
        with during("the canonical form does not run, but the architecture does: it", architecture):
            other = _Refillable(subject, form)
        if not _equal(network, other):
            changed = [name for name in form if form[name] != architecture[name]]
            raise CheckFailure(
                "the canonical form computes another function, at equal weights; it changes "
                + "; ".join(f"{name}: {architecture[name]!r} to {form[name]!r}" for name in changed[:4])
                + ("; ..." if len(changed) > 4 else ""),
                architecture,
            )
        compared += 1
    if not compared:
        return f"nothing to compare: {len(subject.many)} architectures are their own canonical forms"
    return f"{compared} architectures compared with their canonical forms, of {len(subject.many)}"


def _equal(first: _Refillable, second: _Refillable) -> bool:
    """Returns whether two networks compute the same at equal weights."""
    if not differ(first.plain, second.plain):
        return True
    pairs = ([network.logits(draw, channels_alike=True) for network in (first, second)] for draw in range(DRAWS))
    return not any(differ(*pair) for pair in pairs)


@final
class _Refillable:
    """A network whose weights are replaced by values that belong to their shape and role.

    Raises:
        Exception: it does not build or run.
    """

    def __init__(self, subject: SpaceUnderTest, architecture: Architecture) -> None:
        self.images = subject.images(4, subject.small)
        self.network = subject.build(architecture, subject.small)
        tensors = _tensors(self.network)
        # What a network holds besides weights is left as it is, such as a filter, unless it was drawn.
        weights = {n for n, t in tensors.items() if t.requires_grad or n.endswith(("running_mean", "running_var"))}
        if len(weights) < len(tensors):
            others = _tensors(subject.build(architecture, subject.small, seed=1))
            weights |= {name for name in tensors if name not in others or not torch.equal(tensors[name], others[name])}
        self.weights = [(name.rpartition(".")[2], tensors[name]) for name in weights]
        self.plain = self.logits(0, channels_alike=False)

    def logits(self, draw: int, *, channels_alike: bool) -> Tensor:
        """Returns the logits (N, K) of a few images, with the weights of this draw."""
        with torch.no_grad():
            for role, tensor in self.weights:
                role = role if role in ("weight", "bias", "running_mean", "running_var") else ""
                tensor.copy_(_values(tuple(tensor.shape), role, draw, channels_alike))
        return logits(self.network, self.images)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of real numbers, by name."""
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: tensor for name, tensor in tensors if tensor.is_floating_point()}


@lru_cache(maxsize=1000)
def _values(shape: tuple[int, ...], role: str, draw: int, channels_alike: bool) -> Tensor:
    """Returns values of a size at which signals neither fade nor grow."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((shape, role, draw)).encode()))
    if len(shape) < 2:
        values = torch.rand(() if channels_alike else shape, generator=generator)
        if role in ("weight", "running_var"):
            return (values + 0.5).expand(shape)
        if role == "running_mean":  # Of what is always nothing it is nothing, and batch norm without a shift keeps it so.
            return torch.zeros(shape)
        # Of both signs; but one for all channels might leave nothing that ReLU lets pass.
        return (values if channels_alike else values - 0.5).expand(shape)
    rest = math.prod(shape[2:])
    if not channels_alike:
        return torch.randn(shape, generator=generator) * math.sqrt(2 / (shape[1] * rest))
    # A layer that treats each channel by itself has its channels first; they are alike, too.
    first = 1 if shape[1] == 1 and len(shape) > 2 else shape[0]
    values = torch.randn(first, 1, *shape[2:], generator=generator) * math.sqrt(2 / rest) / shape[1]
    return values.expand(shape)
