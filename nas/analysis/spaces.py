"""A search space looked at before any search: its size, what its networks cost, and whether it holds what a search needs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import yaml

from evaluators import latency, macs, parameters
from nas.config.files import load_config, parse_config
from nas.errors import ConfigError, RunError, first_line, format_error
from nas.plots.cells import draw as draw_architecture
from nas.spaces.options import open_space
from search_spaces.checks.run import SHAPES, check_space, json_round_trip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from search_spaces import Architecture, SearchSpace
    from search_spaces.checks.run import CheckResult

Shape = tuple[int, int, int]
# Images of more pixels are passed without numbers, on the meta device: slower for each layer, but as fast for large images.
SMALL_IMAGE = 64 * 64


@final
@dataclass(frozen=True)
class SpaceSummary:
    """What was seen of some architectures of a space.

    Attributes:
        architectures: Number of them.
        costs: The measured costs, by name, one of each architecture.
        disconnected: Number of networks without a path from the image to the logits.
        duplicates: Number of architectures that compute what another one before them computes, by the canonical form.
    """

    architectures: int
    costs: Mapping[str, tuple[float, ...]]
    disconnected: int
    duplicates: int


def find_space(reference: str, options: Sequence[str] = ()) -> SearchSpace:
    """Returns a space by its name, `path/to/file.py:NAME`, `package.module:NAME`, or that of a config in a YAML file.

    Args:
        reference: What names it.
        options: `key=value`, each a setting of the space.

    Raises:
        ConfigError: there is no such space, or it refuses its options; every fault is listed.
    """
    for option in options:
        if "=" not in option:
            raise ConfigError([f"--set must be KEY=VALUE, got {option!r}"])
    overrides = [f"space.{option}" for option in options]
    if reference.endswith((".yaml", ".yml")):
        return open_space(load_config(reference, overrides).space)
    return open_space(parse_config({"space": {"name": reference}}, source="command line", overrides=overrides).space)


def random_architectures(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Returns architectures drawn uniformly; all there are, where these are no more than count."""
    if space.size <= count:
        return list(space.enumerate())
    generator = random.Random(seed)
    return [space.sample(generator) for _ in range(count)]


def summarise(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    shape: Shape,
    num_classes: int,
    *,
    seed: int = 0,
    timed: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> SpaceSummary:
    """Returns what networks of a space cost.

    Args:
        space: The space.
        architectures: Of the networks.
        shape: Of the images, (C, H, W).
        num_classes: K.
        seed: Of the weights.
        timed: Measure the latency of one image on the CPU, too.
        progress: Is told the share that is done.

    Raises:
        RunError: a network cannot be built or used; the message says of which architecture.
    """
    costs: dict[str, list[float]] = {name: [] for name in ("parameters", "MACs", *(["latency"] if timed else []))}
    disconnected, keys = 0, set[str]()
    device = "meta" if shape[1] * shape[2] > SMALL_IMAGE else "cpu"
    for number, architecture in enumerate(architectures):
        progress(number / len(architectures))
        try:
            keys.add(space.key(architecture))
        except Exception as error:
            raise _refused(space, architecture, "has no canonical form", error) from error
        try:
            cost = _cost(space, architecture, shape, num_classes, device)
        except Exception:
            # Not everything works without numbers; what does not work with them either is at fault.
            try:
                cost = _cost(space, architecture, shape, num_classes, "cpu")
            except Exception as error:
                raise _refused(space, architecture, f"does not suit images of {_text(shape)}", error) from error
            device = "cpu"
        costs["parameters"].append(cost[0])
        costs["MACs"].append(cost[1])
        disconnected += not cost[2]
        if timed:
            costs["latency"].append(latency(_build(space, architecture, shape, num_classes, seed), shape))
    frozen_costs = {name: tuple(values) for name, values in costs.items()}
    return SpaceSummary(len(architectures), frozen_costs, disconnected, len(architectures) - len(keys))


def _cost(space: SearchSpace, architecture: Architecture, shape: Shape, classes: int, device: str) -> tuple[int, int, bool]:
    """Returns parameters, MACs, and whether the logits depend on the image; on the meta device without any numbers."""
    with torch.device(device):
        network = _build(space, architecture, shape, classes, 0)
        x = torch.rand(4, *shape, requires_grad=True)
        logits = network.eval()(x * 1)
        (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True) if logits.requires_grad else (None,)
        # Without numbers it is the path that counts; zeros can be seen only where there are some.
        sees = gradient is not None and (device == "meta" or bool((gradient != 0).any()))
        return parameters(network), macs(network, shape), sees


def _build(space: SearchSpace, architecture: Architecture, shape: Shape, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(dict(architecture), shape, classes)


def _refused(space: SearchSpace, architecture: Architecture, what: str, error: Exception) -> RunError:
    values = ", ".join(f"{name}: {value}" for name, value in list(architecture.items())[:6])
    more = ", ..." if len(architecture) > 6 else ""
    return RunError(f"{space.name} {what}: {format_error(error)} (architecture {values}{more}; --check says more)")


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the least of some values, their quartiles q1, median and q3, and the greatest."""
    names = ("min", "q1", "median", "q3", "max")
    return dict(zip(names, map(float, np.quantile(values, [0, 0.25, 0.5, 0.75, 1])), strict=True))


def check(
    space: SearchSpace, *, samples: int | None = None, seed: int = 0, shape: Shape | None = None, classes: int | None = None
) -> list[CheckResult]:
    """Returns what the checks of a space find; with YAML, the text in which bundles store architectures.

    Args:
        space: The space.
        samples: Number of architectures; None for what `check_space` takes by itself, as of the others.
        seed: Of all that is drawn.
        shape: Of the images, (C, H, W); None for several.
        classes: K.
    """
    return check_space(
        space,
        samples=20 if samples is None else samples,
        seed=seed,
        input_shapes=SHAPES if shape is None else (shape,),
        num_classes=7 if classes is None else classes,
        formats={"JSON": json_round_trip, "YAML": _through_yaml},
    )


def _through_yaml(architecture: Architecture) -> object:
    return yaml.safe_load(yaml.safe_dump(dict(architecture), sort_keys=False))


def drawing_paths(space: SearchSpace, path: Path, count: int) -> list[Path]:
    """Returns where drawings go, no more than there are architectures: the path, with a number where they are several.

    Raises:
        RunError: nothing can be drawn there.
    """
    if space.draw is None:
        raise RunError(f"{space.name} has no drawing: give its SearchSpace a `draw`, or leave --draw out")
    if path.suffix not in (".svg", ".png"):
        raise RunError(f"--draw must name a file that ends in .svg or .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise RunError(f"--draw {path}: there is no folder {path.parent}")
    return (
        [path]
        if count == 1
        else [path.with_stem(f"{path.stem}-{number}") for number in range(1, min(count, space.size) + 1)]
    )


def draw(space: SearchSpace, architectures: Sequence[Architecture], paths: Sequence[Path]) -> None:
    """Draws architectures, a file each.

    Raises:
        RunError: the space's `draw` raises, or returns no figure, or the file cannot be written.
    """
    for architecture, path in zip(architectures, paths, strict=True):
        content = draw_architecture(space, architecture, "svg" if path.suffix == ".svg" else "png")
        assert content is not None, "drawing_paths refuses spaces that have no drawing"
        try:
            path.write_bytes(content)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror or first_line(error)}") from error
