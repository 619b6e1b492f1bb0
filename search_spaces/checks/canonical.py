"""Checks of the canonical form: it must be valid and idempotent, and compute the same function as the architecture."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from search_spaces.checks.ownership import unregistered_layers
from search_spaces.checks.space_under_test import CheckFailure, SpaceUnderTest, as_text, error_context, logits, logits_differ

if TYPE_CHECKING:
    from search_spaces.space import Architecture

# Number of draws of weights for a comparison in which all input channels have equal weights. With one draw, all ReLUs of a
# layer may be zero by chance.
WEIGHT_DRAWS = 3


def canonical_valid(under_test: SpaceUnderTest) -> str:
    """Checks that the canonical form is a valid architecture and that `canonical` does not change its argument."""
    for architecture in under_test.many_samples:
        given = dict(architecture)
        with error_context("canonical", architecture):
            form = under_test.space.canonical(given)
        if given != architecture:
            raise CheckFailure("canonical changes the architecture in its argument; change a copy instead", architecture)
        if not isinstance(form, Mapping):
            raise CheckFailure(f"canonical must return a dict, got {type(form).__name__}", architecture)
        with error_context("the canonical form is not an architecture of the space: validate", architecture):
            under_test.space.validate(form)
    return f"{len(under_test.many_samples)} architectures"


def canonical_idempotent(under_test: SpaceUnderTest) -> str:
    """Checks that the canonical form of a canonical form is the same architecture."""
    for architecture in under_test.many_samples:
        form = under_test.canonical_form(architecture)
        again = None if form is None else under_test.canonical_form(form)
        if form is not None and again is not None and as_text(form) != as_text(again):
            names = [name for name in form if form[name] != again[name]]
            difference = (
                f"{names[0]!r} first {form[names[0]]!r}, then {again[names[0]]!r}" if names else "the order of the choices"
            )
            raise CheckFailure(f"the canonical form of the canonical form is different: {difference}", architecture)
    return f"{len(under_test.many_samples)} architectures"


def canonical_equal_functions(under_test: SpaceUnderTest) -> str:
    """Checks that an architecture and its canonical form compute the same function.

    Weights depend only on the shape and role of the tensor, so a layer has the same weights at every position. If the logits
    differ, the canonical form may have reordered concatenated outputs. The networks are then compared again with weights
    that are equal for all input channels. The check cannot detect that a canonical form merges two layers with the same
    input and separate weights into one layer.
    """
    compared = 0
    for architecture in under_test.many_samples:
        form = under_test.canonical_form(architecture)
        if form is None or as_text(form) == as_text(architecture):
            continue
        try:
            network = _ReweightedNetwork(under_test, architecture)
        except Exception:  # `builds` and `shapes` report it.
            continue
        if unregistered_layers(network.network):  # `registered_layers` reports it.
            continue
        with error_context("the architecture runs, but its canonical form", architecture):
            other = _ReweightedNetwork(under_test, form)
        if not _same_function(network, other):
            changed = [name for name in form if form[name] != architecture[name]]
            raise CheckFailure(
                "the canonical form computes another function with equal weights; it changes "
                + "; ".join(f"{name}: {architecture[name]!r} to {form[name]!r}" for name in changed[:4])
                + ("; ..." if len(changed) > 4 else ""),
                architecture,
            )
        compared += 1
    if not compared:
        return f"nothing to compare: no network of {len(under_test.many_samples)} architectures has another canonical form"
    return f"{compared} architectures compared with their canonical forms, of {len(under_test.many_samples)}"


def _same_function(first: _ReweightedNetwork, second: _ReweightedNetwork) -> bool:
    """Returns whether two networks compute the same function with equal weights."""
    if not logits_differ(first.reference_logits, second.reference_logits):
        return True
    pairs = ([network.logits(draw, equal_channels=True) for network in (first, second)] for draw in range(WEIGHT_DRAWS))
    return not any(logits_differ(*pair) for pair in pairs)


@final
class _ReweightedNetwork:
    """A network whose weights depend only on the shape and role of each tensor.

    Raises:
        Exception: The network does not build or run.
    """

    def __init__(self, under_test: SpaceUnderTest, architecture: Architecture) -> None:
        self.images = under_test.images(4, under_test.small_shape)
        self.network = under_test.build(architecture, under_test.small_shape)
        tensors = _tensors(self.network)
        # Other buffers, such as fixed filters, keep their values unless they are random.
        weights = {n for n, t in tensors.items() if t.requires_grad or n.endswith(("running_mean", "running_var"))}
        if len(weights) < len(tensors):
            others = _tensors(under_test.build(architecture, under_test.small_shape, seed=1))
            weights |= {name for name in tensors if name not in others or not torch.equal(tensors[name], others[name])}
        self.weights = [(name.rpartition(".")[2], tensors[name]) for name in weights]
        self.reference_logits = self.logits(0, equal_channels=False)

    def logits(self, draw: int, *, equal_channels: bool) -> Tensor:
        """Returns the logits (N, K) of the images with the weights of this draw."""
        with torch.no_grad():
            for role, tensor in self.weights:
                role = role if role in ("weight", "bias", "running_mean", "running_var") else ""
                tensor.copy_(_weight_values(tuple(tensor.shape), role, draw, equal_channels))
        return logits(self.network, self.images)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns the floating-point parameters and buffers, by name."""
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: tensor for name, tensor in tensors if tensor.is_floating_point()}


@lru_cache(maxsize=1000)
def _weight_values(shape: tuple[int, ...], role: str, draw: int, equal_channels: bool) -> Tensor:
    """Returns random values whose scale keeps the size of activations constant through the layers."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((shape, role, draw)).encode()))
    if len(shape) < 2:
        values = torch.rand(() if equal_channels else shape, generator=generator)
        if role in ("weight", "running_var"):
            return (values + 0.5).expand(shape)
        if role == "running_mean":  # With mean 0, batch norm without a shift maps zeros to zeros.
            return torch.zeros(shape)
        # Both signs, except if all channels share one value: a negative one could make ReLU return zeros only.
        return (values if equal_channels else values - 0.5).expand(shape)
    kernel_size = math.prod(shape[2:])
    if not equal_channels:
        return torch.randn(shape, generator=generator) * math.sqrt(2 / (shape[1] * kernel_size))
    # A depthwise layer has its input channels in the first dimension. These also get equal weights.
    channels = 1 if shape[1] == 1 and len(shape) > 2 else shape[0]
    values = torch.randn(channels, 1, *shape[2:], generator=generator) * math.sqrt(2 / kernel_size) / shape[1]
    return values.expand(shape)
