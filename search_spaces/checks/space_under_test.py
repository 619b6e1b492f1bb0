"""Shared parts of the checks: random architectures, their networks, and errors with their context."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from search_spaces.checks.ownership import ParameterOwners, unregistered_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from search_spaces.space import Architecture, SearchSpace, Value

Shape = tuple[int, int, int]
# Image sides that most spaces accept. Small images make checks with many passes fast.
SMALL_SIDES = (8, 16)
# Number of architectures of fast checks for each sample.
MANY_FACTOR = 10


class CheckFailure(Exception):  # noqa: N818 (it is the result of a check, not an error of the check)
    """A fault that a check found, with the architecture that shows it."""

    def __init__(self, message: str, architecture: Architecture | None = None) -> None:
        super().__init__(message)
        self.architecture = None if architecture is None else dict(architecture)


class CheckHint(Exception):  # noqa: N818 (as above)
    """Advice that a check gives although it found no fault, with an architecture as example."""

    def __init__(self, message: str, architecture: Architecture) -> None:
        super().__init__(message)
        self.architecture = dict(architecture)


class CheckSkipped(Exception):  # noqa: N818 (as above)
    """The reason why a check could not run."""


def format_error(error: BaseException) -> str:
    """Returns an error on one line: its type and the first line of its message."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


@contextmanager
def error_context(action: str, architecture: Architecture | None) -> Iterator[None]:
    """Converts an error of the space into a CheckFailure that names the action and the architecture."""
    try:
        yield
    except (CheckFailure, CheckSkipped):
        raise
    except Exception as error:
        raise CheckFailure(f"{action} raises {format_error(error)}", architecture) from error


@final
class SpaceUnderTest:
    """A search space with the random architectures on which it is tested.

    Attributes:
        space: Search space.
        samples: Distinct random architectures; all architectures if the space is small.
        many_samples: The samples and further distinct architectures, for fast checks.
        input_shapes: Image shapes (C, H, W) for which networks are built. Checks that need one shape use the
            first or `small_shape`.
        num_classes: Number of classes K.
        seed: Random seed.
        formats: Functions by name. Each writes an architecture as text and reads it back.
    """

    def __init__(
        self,
        space: SearchSpace,
        samples: int,
        seed: int,
        input_shapes: Sequence[Shape],
        num_classes: int,
        formats: Mapping[str, Callable[[Architecture], object]],
    ) -> None:
        self.space, self.seed, self.num_classes, self.formats = space, seed, num_classes, formats
        self.input_shapes: list[Shape] = [(channels, height, width) for channels, height, width in input_shapes]
        self.many_samples = sample_distinct(space, MANY_FACTOR * samples, random.Random(seed))
        self.samples = self.many_samples[:samples]
        self._forms: dict[str, dict[str, Value] | None] = {}

    def build(self, architecture: Architecture, shape: Shape, seed: int = 0) -> nn.Module:
        """Returns a network in training mode for images of this shape (C, H, W), with the weights of this seed."""
        torch.manual_seed(self.seed + seed)
        network = self.space.build(dict(architecture), shape, self.num_classes)
        if isinstance(network, nn.Module) and any(is_lazy(parameter) for parameter in network.parameters()):
            network.eval()(self.images(2, shape))
        return network.train()

    def images(self, n: int, shape: Shape, seed: int = 0) -> Tensor:
        """Returns random images (N, C, H, W) with pixels in [0, 1]."""
        return torch.rand(n, *shape, generator=torch.Generator().manual_seed(self.seed + seed))

    def runs(self, architecture: Architecture, shape: Shape) -> bool:
        """Returns whether a network can be built and maps images to logits (N, K), in evaluation and in training mode."""
        try:
            network, x = self.build(architecture, shape), self.images(3, shape)
            with torch.no_grad():
                return all(network.train(mode)(x.clone()).shape == (3, self.num_classes) for mode in (False, True))
        except Exception:  # `builds` and `shapes` report the error.
            return False

    @cached_property
    def running_samples(self) -> list[dict[str, Value]]:
        """The samples that run on images of the first shape. `builds` and `shapes` report the others.

        Raises:
            CheckSkipped: No sample runs.
        """
        running = [architecture for architecture in self.samples if self.runs(architecture, self.input_shapes[0])]
        if not running:
            raise CheckSkipped("no sample builds and maps images to logits")
        return running

    @cached_property
    def unregistered(self) -> dict[str, list[str]]:
        """Attributes with layers that are not registered, for each running sample (as text) that has any."""
        found = {as_text(a): unregistered_layers(self.build(a, self.small_shape)) for a in self.running_samples}
        return {text: names for text, names in found.items() if names}

    @cached_property
    def shared(self) -> dict[str, str]:
        """Name of a parameter shared with an earlier network, for each running sample (as text) that has one."""
        owners, found = ParameterOwners(), dict[str, str]()
        for architecture in self.running_samples:
            # Both networks must exist at the same time, because the memory of a deleted network may be used again.
            networks = [self.build(architecture, self.small_shape, seed) for seed in (0, 1)]
            names = [owners.add(network) for network in networks]
            found |= {as_text(architecture): name for name in names if name is not None}
        return found

    @cached_property
    def working_samples(self) -> list[dict[str, Value]]:
        """The running samples with only registered parameters that no other network shares. Other checks report the rest.

        Raises:
            CheckSkipped: There is no such sample.
        """
        faulty = self.unregistered.keys() | self.shared.keys()
        working = [architecture for architecture in self.running_samples if as_text(architecture) not in faulty]
        if not working:
            raise CheckSkipped("every sample has parameters that are not registered or are shared with another network")
        return working

    @cached_property
    def small_shape(self) -> Shape:
        """The smallest tested shape (C, H, W) on which all architectures in `running_samples` run.

        Raises:
            CheckSkipped: No sample runs.
        """
        channels, *sides = self.input_shapes[0]
        for side in SMALL_SIDES:
            shape = (channels, side, side)
            if side < min(sides) and all(self.runs(architecture, shape) for architecture in self.running_samples):
                return shape
        return self.input_shapes[0]

    def canonical_form(self, architecture: Architecture) -> dict[str, Value] | None:
        """Returns the canonical form; None if it is invalid, which `canonical_valid` reports."""
        text = as_text(architecture)
        if text not in self._forms:
            try:
                form = dict(self.space.canonical(dict(architecture)))
                self.space.validate(form)
                self._forms[text] = form
            except Exception:
                self._forms[text] = None
        return self._forms[text]

    def canonical_key(self, architecture: Architecture) -> str | None:
        """Returns the canonical form as text; None if it is invalid."""
        form = self.canonical_form(architecture)
        return None if form is None else as_text(form)

    def representative(self, architecture: Architecture) -> dict[str, Value]:
        """Returns the canonical form if it runs on small images, otherwise the architecture itself."""
        form = self.canonical_form(architecture)
        return form if form is not None and self.runs(form, self.small_shape) else dict(architecture)


def sample_distinct(space: SearchSpace, count: int, generator: random.Random) -> list[dict[str, Value]]:
    """Returns `count` distinct random architectures, or all architectures if the space has at most `count`."""
    if space.size <= count:
        architectures = list(space.enumerate())
        generator.shuffle(architectures)
        return architectures
    unique: dict[str, dict[str, Value]] = {}
    while len(unique) < count:
        architecture = space.sample(generator)
        unique.setdefault(as_text(architecture), architecture)
    return list(unique.values())


def as_text(architecture: Architecture) -> str:
    """Returns an architecture as text. Different architectures have different texts."""
    return json.dumps([*architecture.items()], default=repr)


def logits(network: nn.Module, x: Tensor) -> Tensor:
    """Returns the logits (N, K) of images x in evaluation mode."""
    with torch.no_grad():
        return network.eval()(x.clone())  # type: ignore[no-any-return]


def logits_differ(first: Tensor, second: Tensor) -> bool:
    """Returns whether logits (N, K) differ by more than rounding errors.

    The tolerance is 1e-3 of the variation between images, plus 1e-5 of the largest logit. The variation is the scale because
    most of a logit may be the same for all images.
    """
    if not torch.equal(first.isfinite(), second.isfinite()):
        return True
    first, second = (t.double().nan_to_num(0.0, 0.0, 0.0) for t in (first, second))
    tolerance = 1e-3 * (first - first.mean(0)).abs().max() + 1e-5 * first.abs().max()
    return bool((first - second).abs().max() > tolerance)
