"""Inspection of a search space before a search: size, cost of its networks, checks and drawings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import yaml

from evaluators import latency, macs, parameters
from nas.bundle.export import failed_exports
from nas.bundle.export_formats import FORMATS
from nas.config.files import load_config, parse_config
from nas.errors import ConfigError, RunError, first_line, format_error
from nas.plots.cells import draw as draw_architecture
from nas.spaces.options import open_space
from nas.training.network import build_network
from search_spaces.checks.run import SHAPES, CheckResult, check_space, json_round_trip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from search_spaces import Architecture, SearchSpace

Shape = tuple[int, int, int]
# Largest number of pixels for which networks run on the CPU. Larger images use the meta device: it does not compute values,
# so its time does not depend on the image size, but each layer has more overhead.
SMALL_IMAGE = 64 * 64
# Number of networks that `check` exports. Each export takes seconds.
EXPORTED = 3


@final
@dataclass(frozen=True)
class SpaceSummary:
    """Statistics of some architectures of a space.

    Attributes:
        architectures: Number of architectures.
        costs: Costs by name (parameters, MACs and, if measured, latency in seconds), with one value per architecture.
        disconnected: Number of networks without a path from the image to the logits.
        duplicates: Number of architectures with the same canonical form as an earlier one.
    """

    architectures: int
    costs: Mapping[str, tuple[float, ...]]
    disconnected: int
    duplicates: int


def find_space(reference: str, options: Sequence[str] = ()) -> SearchSpace:
    """Returns a search space.

    Args:
        reference: Name of the space, `path/to/file.py:NAME`, `package.module:NAME`, or a YAML config whose space is used.
        options: Settings of the space, each as `key=value`.

    Raises:
        ConfigError: the space does not exist or its options are invalid; the message lists every fault.
    """
    for option in options:
        if "=" not in option:
            raise ConfigError([f"--set must be KEY=VALUE, got {option!r}"])
    overrides = [f"space.{option}" for option in options]
    if reference.endswith((".yaml", ".yml")):
        return open_space(load_config(reference, overrides).space, trust=True)
    return open_space(
        parse_config({"space": {"name": reference}}, source="command line", overrides=overrides).space, trust=True
    )


def random_architectures(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Returns `count` architectures drawn uniformly with replacement, or all architectures if there are at most `count`."""
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
    """Returns the cost of networks of a space, and the numbers of disconnected and duplicate architectures.

    Args:
        space: The space.
        architectures: Architectures of the networks.
        shape: Shape of the images, (C, H, W).
        num_classes: Number of classes, K.
        seed: Seed of the weights.
        timed: Also measure the latency of one image on the CPU.
        progress: Called with the completed share, in [0, 1).

    Raises:
        RunError: an architecture has no canonical form, or its network cannot be built or run; the message has the
            architecture.
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
            # Some layers do not work on the meta device, so a failure there is tried again on the CPU.
            try:
                cost = _cost(space, architecture, shape, num_classes, "cpu")
            except Exception as error:
                raise _refused(space, architecture, f"fails on images of {_text(shape)}", error) from error
            device = "cpu"
        costs["parameters"].append(cost[0])
        costs["MACs"].append(cost[1])
        disconnected += not cost[2]
        if timed:
            costs["latency"].append(latency(_build(space, architecture, shape, num_classes, seed), shape))
    frozen_costs = {name: tuple(values) for name, values in costs.items()}
    return SpaceSummary(len(architectures), frozen_costs, disconnected, len(architectures) - len(keys))


def _cost(space: SearchSpace, architecture: Architecture, shape: Shape, classes: int, device: str) -> tuple[int, int, bool]:
    """Returns parameters, MACs, and whether the logits depend on the image, on the CPU or the meta device."""
    with torch.device(device):
        network = _build(space, architecture, shape, classes, 0)
        x = torch.rand(4, *shape, requires_grad=True)
        logits = network.eval()(x * 1)
        (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True) if logits.requires_grad else (None,)
        # The meta device has no values. There, a path from the image to the logits in the autograd graph is enough.
        sees = gradient is not None and (device == "meta" or bool((gradient != 0).any()))
        return parameters(network), macs(network, shape), sees


def _build(space: SearchSpace, architecture: Architecture, shape: Shape, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(dict(architecture), shape, classes)


def _refused(space: SearchSpace, architecture: Architecture, what: str, error: Exception) -> RunError:
    values = ", ".join(f"{name}: {value}" for name, value in list(architecture.items())[:6])
    more = ", ..." if len(architecture) > 6 else ""
    return RunError(f"{space.name} {what}: {format_error(error)} (architecture {values}{more}; run --check for details)")


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the minimum, the quartiles q1, median and q3, and the maximum of values, by name."""
    names = ("min", "q1", "median", "q3", "max")
    return dict(zip(names, map(float, np.quantile(values, [0, 0.25, 0.5, 0.75, 1])), strict=True))


def check(
    space: SearchSpace, *, samples: int | None = None, seed: int = 0, shape: Shape | None = None, classes: int | None = None
) -> list[CheckResult]:
    """Returns the results of the checks of a space.

    Besides the checks of `check_space`, architectures are written to YAML and read again, and networks are exported.

    Args:
        space: The space.
        samples: Number of random architectures; None for 20.
        seed: Seed of all random numbers.
        shape: Shape of the images, (C, H, W); None for several shapes.
        classes: Number of classes, K; None for 7.
    """
    shapes = SHAPES if shape is None else (shape,)
    results = check_space(
        space,
        samples=20 if samples is None else samples,
        seed=seed,
        input_shapes=shapes,
        num_classes=7 if classes is None else classes,
        formats={"JSON": json_round_trip, "YAML": _through_yaml},
    )
    return [*results, _exports(space, min(EXPORTED, samples or EXPORTED), seed, shapes[0], classes or 7)]


def _exports(space: SearchSpace, samples: int, seed: int, shape: Shape, classes: int) -> CheckResult:
    """Checks that networks of random architectures can be exported in all forms of a bundle."""
    images, exported = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed)), 0
    for architecture in random_architectures(space, samples, seed)[:samples]:
        try:
            network = build_network(space, architecture, images, classes, seed)
            with torch.no_grad():
                network.eval()(images)
        except (Exception, SystemExit):  # Other checks report this error.
            continue
        for form, reason in failed_exports(network, images, FORMATS).items():
            message = f"{form}: {reason}; change the network, or search with finalists.forms: [weights]"
            return CheckResult("exports", False, message, architecture)
        exported += 1
    if not exported:
        return CheckResult("exports", None, "not tried: no sampled network can be built and run on images")
    return CheckResult("exports", True, f"{exported} networks as {', '.join(FORMATS)}")


def _through_yaml(architecture: Architecture) -> object:
    return yaml.safe_load(yaml.safe_dump(dict(architecture), sort_keys=False))


def drawing_paths(space: SearchSpace, path: Path, count: int) -> list[Path]:
    """Returns the paths of drawings, at most one for each architecture; several paths have a number before the suffix.

    Raises:
        RunError: the space has no `draw`, the suffix is not .svg or .png, or the folder does not exist.
    """
    if space.draw is None:
        raise RunError(f"{space.name} has no drawing; give its SearchSpace a `draw`, or remove --draw")
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
    """Draws each architecture to its path.

    Raises:
        RunError: the space's `draw` raises an error or returns no matplotlib figure, or a file cannot be written.
    """
    for architecture, path in zip(architectures, paths, strict=True):
        content = draw_architecture(space, architecture, "svg" if path.suffix == ".svg" else "png")
        assert content is not None, "drawing_paths rejects spaces without a drawing"
        try:
            path.write_bytes(content)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror or first_line(error)}") from error
