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

from search_spaces.checks.space_under_test import CheckFailure, SpaceUnderTest, as_text, error_context, logits, logits_differ

if TYPE_CHECKING:
    from search_spaces.space import Architecture

# Weights that do not tell channels apart are drawn so many times: a network of such weights may be dead by chance.
WEIGHT_DRAWS = 3


def canonical_valid(under_test: SpaceUnderTest) -> str:
    """The canonical form is an architecture of the space, with all its names; what is given stays as it is."""
    for architecture in under_test.many_samples:
        given = dict(architecture)
        with error_context("canonical", architecture):
            form = under_test.space.canonical(given)
        if given != architecture:
            raise CheckFailure("canonical changes the architecture that it is given; let it work on a copy", architecture)
        if not isinstance(form, Mapping):
            raise CheckFailure(f"canonical must return a dict, got {type(form).__name__}", architecture)
        with error_context("the canonical form is no architecture of the space: validate", architecture):
            under_test.space.validate(form)
    return f"{len(under_test.many_samples)} architectures"


def canonical_idempotent(under_test: SpaceUnderTest) -> str:
    """The canonical form is its own canonical form."""
    for architecture in under_test.many_samples:
        form = under_test.canonical_form(architecture)
        again = None if form is None else under_test.canonical_form(form)
        if form is not None and again is not None and as_text(form) != as_text(again):
            names = [name for name in form if form[name] != again[name]]
            difference = (
                f"{names[0]!r} first {form[names[0]]!r}, then {again[names[0]]!r}" if names else "the order of its names"
            )
            raise CheckFailure(f"the canonical form of the canonical form is another one: {difference}", architecture)
    return f"{len(under_test.many_samples)} architectures"


def canonical_equal_functions(under_test: SpaceUnderTest) -> str:
    """Architectures compute what their canonical forms compute, so those of equal form compute the same.

    Weights depend on nothing but their shape, so that a layer has the same ones wherever it stands in the network. If the
    logits differ even so, the canonical form may have put what is concatenated in another order: they are compared once
    more under weights that do not tell channels apart. What this cannot see: that two layers of one kind on one input, each
    with its own weights, were made one layer that feeds both places.
    """
    compared = 0
    for architecture in under_test.many_samples:
        form = under_test.canonical_form(architecture)
        if form is None or as_text(form) == as_text(architecture):
            continue
        try:
            network = _ReweightedNetwork(under_test, architecture)
        except Exception:  # `builds` and `shapes` tell of it.
            continue
        with error_context("the canonical form does not run, but the architecture does: it", architecture):
            other = _ReweightedNetwork(under_test, form)
        if not _same_function(network, other):
            changed = [name for name in form if form[name] != architecture[name]]
            raise CheckFailure(
                "the canonical form computes another function, at equal weights; it changes "
                + "; ".join(f"{name}: {architecture[name]!r} to {form[name]!r}" for name in changed[:4])
                + ("; ..." if len(changed) > 4 else ""),
                architecture,
            )
        compared += 1
    if not compared:
        return f"nothing to compare: {len(under_test.many_samples)} architectures are their own canonical forms"
    return f"{compared} architectures compared with their canonical forms, of {len(under_test.many_samples)}"


def _same_function(first: _ReweightedNetwork, second: _ReweightedNetwork) -> bool:
    """Returns whether two networks compute the same at equal weights."""
    if not logits_differ(first.reference_logits, second.reference_logits):
        return True
    pairs = ([network.logits(draw, equal_channels=True) for network in (first, second)] for draw in range(WEIGHT_DRAWS))
    return not any(logits_differ(*pair) for pair in pairs)


@final
class _ReweightedNetwork:
    """A network whose weights are replaced by values that belong to their shape and role.

    Raises:
        Exception: it does not build or run.
    """

    def __init__(self, under_test: SpaceUnderTest, architecture: Architecture) -> None:
        self.images = under_test.images(4, under_test.small_shape)
        self.network = under_test.build(architecture, under_test.small_shape)
        tensors = _tensors(self.network)
        # What a network holds besides weights is left as it is, such as a filter, unless it was drawn.
        weights = {n for n, t in tensors.items() if t.requires_grad or n.endswith(("running_mean", "running_var"))}
        if len(weights) < len(tensors):
            others = _tensors(under_test.build(architecture, under_test.small_shape, seed=1))
            weights |= {name for name in tensors if name not in others or not torch.equal(tensors[name], others[name])}
        self.weights = [(name.rpartition(".")[2], tensors[name]) for name in weights]
        self.reference_logits = self.logits(0, equal_channels=False)

    def logits(self, draw: int, *, equal_channels: bool) -> Tensor:
        """Returns the logits (N, K) of a few images, with the weights of this draw."""
        with torch.no_grad():
            for role, tensor in self.weights:
                role = role if role in ("weight", "bias", "running_mean", "running_var") else ""
                tensor.copy_(_weight_values(tuple(tensor.shape), role, draw, equal_channels))
        return logits(self.network, self.images)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of real numbers, by name."""
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: tensor for name, tensor in tensors if tensor.is_floating_point()}


@lru_cache(maxsize=1000)
def _weight_values(shape: tuple[int, ...], role: str, draw: int, equal_channels: bool) -> Tensor:
    """Returns values of a size at which signals neither fade nor grow."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((shape, role, draw)).encode()))
    if len(shape) < 2:
        values = torch.rand(() if equal_channels else shape, generator=generator)
        if role in ("weight", "running_var"):
            return (values + 0.5).expand(shape)
        if role == "running_mean":  # Of what is always nothing it is nothing, and batch norm without a shift keeps it so.
            return torch.zeros(shape)
        # Of both signs; but one for all channels might leave nothing that ReLU lets pass.
        return (values if equal_channels else values - 0.5).expand(shape)
    kernel_size = math.prod(shape[2:])
    if not equal_channels:
        return torch.randn(shape, generator=generator) * math.sqrt(2 / (shape[1] * kernel_size))
    # A layer that treats each channel by itself has its channels first; they are alike, too.
    channels = 1 if shape[1] == 1 and len(shape) > 2 else shape[0]
    values = torch.randn(channels, 1, *shape[2:], generator=generator) * math.sqrt(2 / kernel_size) / shape[1]
    return values.expand(shape)
