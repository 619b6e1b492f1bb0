"""Checks of a space's networks: they build, map images to logits, pass gradients on, and depend on nothing else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from search_spaces.checks.space_under_test import CheckFailure, Shape, SpaceUnderTest, differ, during, logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from search_spaces.space import Architecture, Value

# Images of a pass for gradients, and passes, with new weights each: no ReLU is dead in all of them by chance.
IMAGES = 32
DRAWS = 4
# Architectures like one that has a parameter without a gradient, to see whether it has one there.
RELATIVES = 40


def builds(subject: SpaceUnderTest) -> str:
    """Random architectures build, for every shape of images."""
    for architecture in subject.samples:
        for shape in subject.shapes:
            given = dict(architecture)
            with during(f"build for images {shape}", architecture):
                torch.manual_seed(subject.seed)
                network = subject.space.build(given, shape, subject.num_classes)
            if not isinstance(network, nn.Module):
                raise CheckFailure(f"build must return a torch.nn.Module, got {type(network).__name__}", architecture)
            if given != architecture:
                raise CheckFailure("build changes the architecture that it is given; let it work on a copy", architecture)
    return f"{len(subject.samples)} architectures, for images {', '.join(map(str, subject.shapes))}"


def shapes(subject: SpaceUnderTest) -> str:
    """Networks map images (N, C, H, W) to finite logits (N, K), one image included, in both modes."""
    tried = 0
    for architecture in subject.samples:
        for shape in subject.shapes:
            try:
                network = subject.build(architecture, shape)
            except Exception:  # `builds` tells of it.
                continue
            tried += 1
            for n, training in ((1, False), (3, False), (3, True)):
                mode = "training" if training else "evaluation"
                where = f"images {(n, *shape)} in {mode} mode"
                with during(f"the network on {where}", architecture), torch.no_grad():
                    found = network.train(training)(subject.images(n, shape))
                wanted = (n, subject.num_classes)
                if not isinstance(found, torch.Tensor) or found.shape != wanted:
                    got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
                    raise CheckFailure(f"{where} must give logits (N, K) = {wanted}, got {got}", architecture)
                if not bool(found.isfinite().all()):
                    raise CheckFailure(f"{where} give logits that are not finite", architecture)
    return f"{tried} networks, one image and three, in evaluation and in training mode"


def batch_independent(subject: SpaceUnderTest) -> str:
    """In evaluation mode the logits of an image do not depend on the others of its batch."""
    shape = subject.small
    x = subject.images(4, shape)
    others = torch.cat([x[:1], 1 - x[1:] ** 2])
    for architecture in subject.working:
        network = subject.build(architecture, shape)
        with during("training mode", architecture), torch.no_grad():
            for step in range(3):  # So that batch norm has statistics.
                network(subject.images(IMAGES, shape, seed=1 + step))
        first, second = logits(network, x), logits(network, others)
        if differ(first, logits(network, x)):  # By chance, not by the batch: `deterministic` tells of it.
            continue
        if differ(first, torch.cat([second[:1], first[1:]])):
            raise CheckFailure(
                "in evaluation mode the logits of an image depend on the others of its batch; "
                "look for statistics taken over the batch",
                architecture,
            )
    return f"{len(subject.working)} networks"


def deterministic(subject: SpaceUnderTest) -> str:
    """One seed gives the same weights, another seed others; one image the same logits."""
    fixed = 0
    for architecture in subject.working:
        shape = subject.small
        first, again, other = (subject.build(architecture, shape, seed) for seed in (1, 1, 2))
        name = next(_unequal(first, again), None)
        if name is not None:
            raise CheckFailure(
                f"one seed of torch gives different weights: {name}; draw them from torch alone", architecture
            )
        fixed += next(_unequal(first, other), None) is None
        x = subject.images(4, shape)
        if differ(logits(first, x), logits(first, x)):
            raise CheckFailure(
                "in evaluation mode the same images give different logits, one pass after the other", architecture
            )
    if fixed == len(subject.working):
        raise CheckFailure("all seeds of torch give the same weights: build must not seed torch", subject.working[0])
    return f"{len(subject.working)} networks"


def _unequal(first: nn.Module, second: nn.Module) -> Iterator[str]:
    """Yields the names of the tensors that two networks do not share."""
    tensors, others = first.state_dict(), second.state_dict()
    yield from tensors.keys() ^ others.keys()
    for name in (name for name in tensors if name in others):
        a, b = tensors[name], others[name]
        if a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num()):
            yield name


def global_state(subject: SpaceUnderTest) -> str:
    """Building and running a network leaves alone what others share: only torch's own generator moves."""
    for architecture in subject.working[:3]:
        before = _state()
        logits(subject.build(architecture, subject.small), subject.images(2, subject.small))
        after = _state()
        changed = [name for name in before if before[name] != after[name]]
        if changed:
            raise CheckFailure(f"building or running a network changes {', '.join(changed)}", architecture)
    return f"left as they were: {', '.join(_state())}"


def _state() -> dict[str, Any]:
    return {
        "the state of random": random.getstate(),
        "the state of numpy.random": str(np.random.get_state()),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
    }


class _Flow(NamedTuple):
    """What gradients reach: whether the image, and which parameters, told apart by what `_identity` says."""

    image: bool
    alive: set[tuple[str, ...]]
    dead: set[tuple[str, ...]]


def gradients(subject: SpaceUnderTest) -> str:
    """Gradients reach the image and every parameter.

    Taken of canonical forms, for others may hold operations that lead nowhere. Even so a layer may be without a gradient in
    some networks by their architecture (what feeds it is empty, or nothing uses its output): it is at fault if it has none
    in architectures like that one either, as far as they have this layer too. Networks without a way from the image to the
    logits are degenerate, not at fault, unless all are.
    """
    blind = 0
    for architecture in subject.working:
        form = subject.representative(architecture)
        flow = _flow(subject, form, subject.small)
        if not flow.image:
            blind += 1
        elif flow.dead:
            left = _dead_everywhere(subject, form, flow.dead)
            if left:
                names = sorted(identity[0] for identity in left)
                raise CheckFailure(
                    f"no gradient reaches {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}, "
                    "here or in architectures like this one; look for layers that are not used, detach() or no_grad()",
                    form,
                )
    count = len(subject.working)
    if blind == count:
        raise CheckFailure(
            f"no gradient reaches the image in any of {count} architectures; look for detach(), no_grad(), argmax, rounding",
            subject.representative(subject.working[0]),
        )
    return f"{count} networks" + (f", {blind} of them without a way from the image to the logits" if blind else "")


def _flow(subject: SpaceUnderTest, architecture: Architecture, shape: Shape) -> _Flow:
    """Returns what gradients reach in some of a few draws of weights and images."""
    image, alive, dead = False, set[tuple[str, ...]](), set[tuple[str, ...]]()
    for draw in range(DRAWS):
        network = subject.build(architecture, shape, seed=draw)
        with torch.no_grad():
            # A layer that starts at zero passes no gradient on.
            for parameter in network.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        x = subject.images(IMAGES, shape, seed=draw).requires_grad_()
        with during("the backward pass", architecture):
            found = network(x.clone())
            if found.requires_grad:
                (found * torch.randn_like(found)).sum().backward()
        image = image or _reached(x)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:  # A frozen one is meant to have none.
                (alive if _reached(parameter) else dead).add(_identity(network, name))
        dead -= alive
        if image and not dead:
            break
    return _Flow(image, alive, dead)


def _reached(tensor: torch.Tensor) -> bool:
    return tensor.grad is not None and bool((tensor.grad != 0).any())


def _identity(network: nn.Module, name: str) -> tuple[str, ...]:
    """Returns what tells a parameter's place apart: its name, its shape, and what its layer stands among."""
    owner = name.rpartition(".")[0]
    around = owner.rpartition(".")[0]
    return name, str(tuple(network.get_parameter(name).shape)), repr(network.get_submodule(around or owner))


def _dead_everywhere(
    subject: SpaceUnderTest, architecture: Architecture, dead: set[tuple[str, ...]]
) -> set[tuple[str, ...]]:
    """Returns those of some parameters that get no gradient on larger images nor in architectures like this one."""
    left = dead - _flow(subject, architecture, subject.shapes[0]).alive
    generator = random.Random(subject.seed)
    for number in range(RELATIVES):
        if not left:
            break
        relative: dict[str, Value] = dict(architecture)
        for name in generator.sample([*relative], min(len(relative), 1 + number % 3)):
            relative[name] = generator.choice(subject.space.choices[name].values)
        relative = subject.representative(relative)
        if subject.runs(relative, subject.small):
            left = left - _flow(subject, relative, subject.small).alive
    return left
