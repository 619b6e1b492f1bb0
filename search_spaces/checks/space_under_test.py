"""What the checks of a space share: random architectures, their networks, and what is said when something goes wrong."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from search_spaces.space import Architecture, SearchSpace, Value

Shape = tuple[int, int, int]
# Sides of images that most spaces can take and that cost little, for what needs many passes.
SMALL = (8, 16)
# How many architectures are drawn for what costs little, for each sample.
MANY = 10


class CheckFailure(Exception):  # noqa: N818 (it is what a check has found, not an error of the check)
    """What a check has found to be wrong, and the architecture that shows it."""

    def __init__(self, message: str, architecture: Architecture | None = None) -> None:
        super().__init__(message)
        self.architecture = None if architecture is None else dict(architecture)


class CheckSkipped(Exception):  # noqa: N818 (as above)
    """Says why a check could not be made."""


def format_error(error: BaseException) -> str:
    """Returns an error on one line: its kind, and the first line of what it says."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


@contextmanager
def during(what: str, architecture: Architecture | None) -> Iterator[None]:
    """Makes an error of the user's code the fault that it raises while `what` is done with an architecture."""
    try:
        yield
    except (CheckFailure, CheckSkipped):
        raise
    except Exception as error:
        raise CheckFailure(f"{what} raises {format_error(error)}", architecture) from error


@final
class SpaceUnderTest:
    """A space under test, with the architectures on which it is tried.

    Attributes:
        space: The space.
        samples: Architectures drawn at random, without duplicates; all of them where there are so few.
        many: More of them, the samples first.
        shapes: Of the images (C, H, W) for which networks are built; the first is that of the checks that need one only.
        num_classes: K.
        seed: Of all that is drawn.
        formats: What an architecture must survive, by name.
    """

    def __init__(
        self,
        space: SearchSpace,
        samples: int,
        seed: int,
        shapes: Sequence[Shape],
        num_classes: int,
        formats: Mapping[str, Callable[[Architecture], object]],
    ) -> None:
        self.space, self.seed, self.num_classes, self.formats = space, seed, num_classes, formats
        self.shapes: list[Shape] = [(channels, height, width) for channels, height, width in shapes]
        self.many = draw(space, MANY * samples, random.Random(seed))
        self.samples = self.many[:samples]
        self._forms: dict[str, dict[str, Value] | None] = {}

    def build(self, architecture: Architecture, shape: Shape, seed: int = 0) -> nn.Module:
        """Returns a network for images of this shape; one seed, one set of weights."""
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
        except Exception:  # What it is, `builds` and `shapes` tell.
            return False

    @cached_property
    def working(self) -> list[dict[str, Value]]:
        """The samples that run on images of the first shape: what is wrong with the others is told once.

        Raises:
            CheckSkipped: there is none.
        """
        found = [architecture for architecture in self.samples if self.runs(architecture, self.shapes[0])]
        if not found:
            raise CheckSkipped("no sample builds and maps images to logits")
        return found

    @cached_property
    def small(self) -> Shape:
        """The smallest shape, of those that are tried, on which all that works works still.

        Raises:
            CheckSkipped: nothing works.
        """
        channels, *sides = self.shapes[0]
        for side in SMALL:
            shape = (channels, side, side)
            if side < min(sides) and all(self.runs(architecture, shape) for architecture in self.working):
                return shape
        return self.shapes[0]

    def form(self, architecture: Architecture) -> dict[str, Value] | None:
        """Returns the canonical form, or None where it is no architecture of the space: `canonical_valid` tells of that."""
        text = written(architecture)
        if text not in self._forms:
            try:
                found = dict(self.space.canonical(dict(architecture)))
                self.space.validate(found)
                self._forms[text] = found
            except Exception:
                self._forms[text] = None
        return self._forms[text]

    def key(self, architecture: Architecture) -> str | None:
        """Returns the canonical form as text, or None where it is no architecture of the space."""
        form = self.form(architecture)
        return None if form is None else written(form)

    def representative(self, architecture: Architecture) -> dict[str, Value]:
        """Returns the canonical form where it runs on small images, or else the architecture itself."""
        form = self.form(architecture)
        return form if form is not None and self.runs(form, self.small) else dict(architecture)


def draw(space: SearchSpace, count: int, generator: random.Random) -> list[dict[str, Value]]:
    """Returns so many architectures of a space, drawn without duplicates; all of them where there are no more."""
    if space.size <= count:
        found = list(space.enumerate())
        generator.shuffle(found)
        return found
    unique: dict[str, dict[str, Value]] = {}
    while len(unique) < count:
        architecture = space.sample(generator)
        unique.setdefault(written(architecture), architecture)
    return list(unique.values())


def written(architecture: Architecture) -> str:
    """Returns an architecture as text: one text, one architecture."""
    return json.dumps([*architecture.items()], default=repr)


def logits(network: nn.Module, x: Tensor) -> Tensor:
    """Returns the logits (N, K) of images x in evaluation mode."""
    with torch.no_grad():
        return network.eval()(x.clone())  # type: ignore[no-any-return]


def differ(first: Tensor, second: Tensor) -> bool:
    """Returns whether logits (N, K) differ by more than rounding explains.

    That is by a thousandth of how much they vary from image to image: most of a logit may be the same for all images.
    """
    if not torch.equal(first.isfinite(), second.isfinite()):
        return True
    first, second = (t.double().nan_to_num(0.0, 0.0, 0.0) for t in (first, second))
    tolerance = 1e-3 * (first - first.mean(0)).abs().max() + 1e-5 * first.abs().max()
    return bool((first - second).abs().max() > tolerance)
