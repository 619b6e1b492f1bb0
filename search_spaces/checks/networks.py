"""Checks of the networks: construction, output shapes, gradients, determinism and side effects."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from search_spaces.checks.space_under_test import CheckFailure, Shape, SpaceUnderTest, error_context, logits, logits_differ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from search_spaces.space import Architecture, Value

# Batch size and number of gradient passes. Each pass has new weights, so that no ReLU is dead in all passes by chance.
BATCH_SIZE = 32
WEIGHT_DRAWS = 4
# Number of similar architectures that are tested if a parameter has no gradient.
NEIGHBOURS = 40


def builds(under_test: SpaceUnderTest) -> str:
    """Checks that random architectures build for every image shape."""
    for architecture in under_test.samples:
        for shape in under_test.input_shapes:
            architecture_copy = dict(architecture)
            with error_context(f"build for images {shape}", architecture):
                torch.manual_seed(under_test.seed)
                network = under_test.space.build(architecture_copy, shape, under_test.num_classes)
            if not isinstance(network, nn.Module):
                raise CheckFailure(f"build must return a torch.nn.Module, got {type(network).__name__}", architecture)
            if architecture_copy != architecture:
                raise CheckFailure("build changes the architecture in its argument; change a copy instead", architecture)
    return f"{len(under_test.samples)} architectures, for images {', '.join(map(str, under_test.input_shapes))}"


def shapes(under_test: SpaceUnderTest) -> str:
    """Checks that networks map images (N, C, H, W) to finite logits (N, K), in both modes and also for N = 1."""
    networks = 0
    for architecture in under_test.samples:
        for shape in under_test.input_shapes:
            try:
                network = under_test.build(architecture, shape)
            except Exception:  # `builds` reports it.
                continue
            networks += 1
            for n, training in ((1, False), (3, False), (3, True)):
                mode = "training" if training else "evaluation"
                where = f"images {(n, *shape)} in {mode} mode"
                with error_context(f"the network on {where}", architecture), torch.no_grad():
                    output = network.train(training)(under_test.images(n, shape))
                expected = (n, under_test.num_classes)
                if not isinstance(output, torch.Tensor) or output.shape != expected:
                    got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                    raise CheckFailure(f"{where} must give logits (N, K) = {expected}, got {got}", architecture)
                if not bool(output.isfinite().all()):
                    raise CheckFailure(f"{where} give logits that are not finite", architecture)
    return f"{networks} networks, one image and three, in evaluation and in training mode"


def raw_logits(under_test: SpaceUnderTest) -> str:
    """Checks that the outputs of a network are not probabilities."""
    for architecture in under_test.working_samples:
        outputs = logits(
            under_test.build(architecture, under_test.small_shape), under_test.images(4, under_test.small_shape)
        )
        sums = outputs.double().sum(1)
        in_range = bool(((outputs >= 0) & (outputs <= 1)).all())
        if under_test.num_classes > 1 and in_range and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            raise CheckFailure(
                "the outputs for each image are in [0, 1] with the sum 1, so they are probabilities; "
                "remove the softmax: a network must return logits",
                architecture,
            )
    return f"{len(under_test.working_samples)} networks"


def images_unchanged(under_test: SpaceUnderTest) -> str:
    """Checks that a network does not change its images in place."""
    for architecture in under_test.working_samples:
        network = under_test.build(architecture, under_test.small_shape)
        for mode in ("training", "evaluation"):
            x = under_test.images(3, under_test.small_shape)
            with torch.no_grad():
                network.train(mode == "training")(x)
            if not torch.equal(x, under_test.images(3, under_test.small_shape)):
                raise CheckFailure(
                    f"the network changes its images in place in {mode} mode; "
                    "use x = x * 2 instead of x *= 2, and no inplace=True in the first layer",
                    architecture,
                )
    return f"{len(under_test.working_samples)} networks"


def batch_independent(under_test: SpaceUnderTest) -> str:
    """Checks that in evaluation mode the logits of an image do not depend on the other images of the batch."""
    shape = under_test.small_shape
    x = under_test.images(4, shape)
    others = torch.cat([x[:1], 1 - x[1:] ** 2])
    for architecture in under_test.working_samples:
        network = under_test.build(architecture, shape)
        with error_context("training mode", architecture), torch.no_grad():
            for step in range(3):  # Sets the running statistics of batch norm.
                network(under_test.images(BATCH_SIZE, shape, seed=1 + step))
        first, second = logits(network, x), logits(network, others)
        if logits_differ(first, logits(network, x)):  # The logits are random, which `deterministic` reports.
            continue
        if logits_differ(first, torch.cat([second[:1], first[1:]])):
            raise CheckFailure(
                "in evaluation mode the logits of an image depend on the other images of its batch; "
                "look for statistics taken over the batch",
                architecture,
            )
    return f"{len(under_test.working_samples)} networks"


def deterministic(under_test: SpaceUnderTest) -> str:
    """Checks that weights depend on the seed alone, and logits on the image alone."""
    seed_independent = 0
    for architecture in under_test.working_samples:
        shape = under_test.small_shape
        first, again, other = (under_test.build(architecture, shape, seed) for seed in (1, 1, 2))
        name = next(_differing_tensors(first, again), None)
        if name is not None:
            raise CheckFailure(
                f"the same seed of torch gives different weights: {name}; use only the random numbers of torch", architecture
            )
        seed_independent += next(_differing_tensors(first, other), None) is None
        x = under_test.images(4, shape)
        if logits_differ(logits(first, x), logits(first, x)):
            raise CheckFailure("in evaluation mode the same images give different logits in two passes", architecture)
    if seed_independent == len(under_test.working_samples):
        raise CheckFailure(
            "all seeds of torch give the same weights: build must not seed torch", under_test.working_samples[0]
        )
    return f"{len(under_test.working_samples)} networks"


def _differing_tensors(first: nn.Module, second: nn.Module) -> Iterator[str]:
    """Yields the names of the tensors that differ between two networks."""
    tensors, others = first.state_dict(), second.state_dict()
    yield from tensors.keys() ^ others.keys()
    for name in (name for name in tensors if name in others):
        a, b = tensors[name], others[name]
        if a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num()):
            yield name


def global_state(under_test: SpaceUnderTest) -> str:
    """Checks that building and running a network changes no global state except the random generator of torch."""
    for architecture in under_test.working_samples[:3]:
        before = _global_state()
        logits(under_test.build(architecture, under_test.small_shape), under_test.images(2, under_test.small_shape))
        after = _global_state()
        changed = [name for name in before if before[name] != after[name]]
        if changed:
            raise CheckFailure(f"building or running a network changes {', '.join(changed)}", architecture)
    return f"unchanged: {', '.join(_global_state())}"


def _global_state() -> dict[str, Any]:
    return {
        "the state of random": random.getstate(),
        "the state of numpy.random": str(np.random.get_state()),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
    }


class _GradientFlow(NamedTuple):
    """Whether the image has a gradient, and the parameters with and without one, as `_parameter_identity` tuples."""

    image: bool
    with_gradient: set[tuple[str, ...]]
    without_gradient: set[tuple[str, ...]]


def gradients(under_test: SpaceUnderTest) -> str:
    """Checks that gradients reach the image and every parameter.

    The check uses canonical forms, because other architectures may hold operations that do not reach the output. A layer may
    still have no gradient because of the architecture: its input is zero, or no layer uses its output. So the check fails
    only if the layer also has no gradient in similar architectures. A network without a path from the image to the logits is
    degenerate and passes, unless all networks are degenerate.
    """
    without_image_gradient = 0
    for architecture in under_test.working_samples:
        form = under_test.representative(architecture)
        reached = _gradient_flow(under_test, form, under_test.small_shape)
        if not reached.image:
            without_image_gradient += 1
        elif reached.without_gradient:
            always_dead = _always_without_gradient(under_test, form, reached.without_gradient)
            if always_dead:
                names = sorted(identity[0] for identity in always_dead)
                raise CheckFailure(
                    f"no gradient reaches {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}, "
                    "in this and in similar architectures; look for unused layers, detach() or no_grad()",
                    form,
                )
    count = len(under_test.working_samples)
    if without_image_gradient == count:
        raise CheckFailure(
            f"no gradient reaches the image in any of {count} architectures; look for detach(), no_grad(), argmax, rounding",
            under_test.representative(under_test.working_samples[0]),
        )
    return f"{count} networks" + (
        f", {without_image_gradient} of them without a path from the image to the logits" if without_image_gradient else ""
    )


def _gradient_flow(under_test: SpaceUnderTest, architecture: Architecture, shape: Shape) -> _GradientFlow:
    """Returns which gradients are nonzero in at least one draw of weights and images."""
    image, with_gradient, without_gradient = False, set[tuple[str, ...]](), set[tuple[str, ...]]()
    for draw in range(WEIGHT_DRAWS):
        network = under_test.build(architecture, shape, seed=draw)
        with torch.no_grad():
            # A layer that is initialised to zero blocks gradients, so all weights get noise.
            for parameter in network.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        x = under_test.images(BATCH_SIZE, shape, seed=draw).requires_grad_()
        with error_context("the backward pass", architecture):
            outputs = network(x.clone())
            if outputs.requires_grad:
                (outputs * torch.randn_like(outputs)).sum().backward()
        image = image or _has_gradient(x)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:  # A frozen parameter has no gradient by design.
                (with_gradient if _has_gradient(parameter) else without_gradient).add(_parameter_identity(network, name))
        without_gradient -= with_gradient
        if image and not without_gradient:
            break
    return _GradientFlow(image, with_gradient, without_gradient)


def _has_gradient(tensor: torch.Tensor) -> bool:
    return tensor.grad is not None and bool((tensor.grad != 0).any())


def _parameter_identity(network: nn.Module, name: str) -> tuple[str, ...]:
    """Returns an identifier of a parameter across architectures: name, shape and the modules around its layer."""
    owner = name.rpartition(".")[0]
    around = owner.rpartition(".")[0]
    return name, str(tuple(network.get_parameter(name).shape)), repr(network.get_submodule(around or owner))


def _always_without_gradient(
    under_test: SpaceUnderTest, architecture: Architecture, without_gradient: set[tuple[str, ...]]
) -> set[tuple[str, ...]]:
    """Returns those of the parameters that have a gradient neither on larger images nor in similar architectures."""
    remaining = without_gradient - _gradient_flow(under_test, architecture, under_test.input_shapes[0]).with_gradient
    generator = random.Random(under_test.seed)
    for number in range(NEIGHBOURS):
        if not remaining:
            break
        neighbour: dict[str, Value] = dict(architecture)
        for name in generator.sample([*neighbour], min(len(neighbour), 1 + number % 3)):
            neighbour[name] = generator.choice(under_test.space.choices[name].values)
        neighbour = under_test.representative(neighbour)
        if under_test.runs(neighbour, under_test.small_shape):
            remaining = remaining - _gradient_flow(under_test, neighbour, under_test.small_shape).with_gradient
    return remaining
