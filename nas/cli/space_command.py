"""`hardcell space`: shows, draws and checks a search space before a search."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, final

import click

from nas.cli.progress import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from search_spaces import SearchSpace

    Shape = tuple[int, int, int]

SAMPLES, SHAPE, CLASSES = 100, (3, 32, 32), 10


@final
class SpaceArguments(TypedDict):
    """Unparsed options of `hardcell space`.

    Attributes:
        options: Options of the space, each as KEY=VALUE.
        samples: Number of random architectures; None if not given.
        shape: Shape of an image, as C,H,W; None if not given.
        classes: Number of classes; None if not given.
        seed: Seed of all random numbers.
        timed: Also measure the latency of one image.
        drawing: File of the drawing, .svg or .png; None for no drawing.
        count: Number of drawings.
        checked: Check the space instead of showing it.
        as_json: Print JSON.
    """

    options: tuple[str, ...]
    samples: int | None
    shape: str | None
    classes: int | None
    seed: int
    timed: bool
    drawing: Path | None
    count: int
    checked: bool
    as_json: bool


@click.command()
@click.argument("space")
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set an option of the space, such as channels=8; repeatable. In a search, this is --set space.channels=8.",
)
@click.option("--samples", type=click.IntRange(1), help="Number of random architectures.  [default: 100; with --check, 20]")
@click.option("--input", "shape", metavar="C,H,W", help="Shape of an image.  [default: 3,32,32; with --check, three shapes]")
@click.option("--classes", type=click.IntRange(1), help="Number of classes.  [default: 10; with --check, 7]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random numbers.")
@click.option("--latency", "timed", is_flag=True, help="Also measure the latency of one image on this machine's CPU.")
@click.option(
    "--draw",
    "drawing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw a random architecture to FILE, .svg or .png.",
)
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="Number of drawings: FILE-1.svg, FILE-2.svg, ..."
)
@click.option("--check", "checked", is_flag=True, help="Check that the space meets the requirements of a search.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def space(space: str, **options: Unpack[SpaceArguments]) -> None:
    """Show, draw or check a search space.

    By default, the output has the size and the choices of the space, and the cost of its networks.

    SPACE is a name (cell201, darts, ...), path/to/file.py:NAME, package.module:NAME, or a YAML config, whose space is used.
    With --check, exits 2 if a check fails.
    """
    try:
        # Inside the `try`, because the imports take seconds and Ctrl-C may arrive during them.
        passed = _run(space, options)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; only drawings may have been written", err=True)
        sys.exit(INTERRUPTED)
    if not passed:
        sys.exit(2)


def _run(reference: str, options: SpaceArguments) -> bool:
    """Draws the space if requested, then checks or summarises it. Returns False if a check did not pass."""
    from nas.analysis.spaces import draw, drawing_paths, find_space, random_architectures
    from nas.errors import ConfigError

    shape = None if options["shape"] is None else _shape(options["shape"])
    drawing, count = options["drawing"], options["count"]
    if count > 1 and drawing is None:
        raise ConfigError(["--count is the number of drawings; give --draw FILE as well"])
    space = find_space(reference, options["options"])
    paths = [] if drawing is None else drawing_paths(space, drawing, count)
    if paths:
        draw(space, random_architectures(space, len(paths), options["seed"]), paths)
    passed = _check(space, shape, paths, options) if options["checked"] else _summarise(space, shape, paths, options)
    if not options["as_json"]:
        for path in paths:
            click.echo(f"drawing: {path}")
    return passed


def _check(space: SearchSpace, shape: Shape | None, drawings: Sequence[Path], options: SpaceArguments) -> bool:
    """Checks a space and prints the results; returns whether all checks passed."""
    from nas.analysis.spaces import check
    from nas.cli.space_tables import check_records, print_checks

    samples, seed, classes = options["samples"], options["seed"], options["classes"]
    with _progress("checking the space"):
        outcomes = check(space, samples=samples, seed=seed, shape=shape, classes=classes)
    passed = all(outcome.passed for outcome in outcomes)
    if options["as_json"]:
        _print_json({"name": space.name, "passed": passed, "checks": check_records(outcomes)}, drawings)
    else:
        print_checks(space, outcomes)
    return passed


def _summarise(space: SearchSpace, shape: Shape | None, drawings: Sequence[Path], options: SpaceArguments) -> bool:
    """Prints the size, the choices and the cost of a space; returns True, because no check is made."""
    from nas.analysis.spaces import random_architectures, summarise
    from nas.cli.space_tables import print_summary, summary_record

    images, classes, seed = shape or SHAPE, options["classes"] or CLASSES, options["seed"]
    architectures = random_architectures(space, options["samples"] or SAMPLES, seed)
    with _progress("building networks") as progress:
        summary = summarise(space, architectures, images, classes, seed=seed, timed=options["timed"], progress=progress)
    if options["as_json"]:
        _print_json({**summary_record(space, summary), "input": images, "classes": classes, "seed": seed}, drawings)
    else:
        print_summary(space, summary, images, classes)
    return True


def _print_json(record: dict[str, Any], drawings: Sequence[Path]) -> None:
    click.echo(json.dumps({**record, "drawings": list(map(str, drawings))}, indent=2))


def _shape(text: str) -> Shape:
    """Returns the shape (C, H, W) from the text C,H,W.

    Raises:
        ConfigError: the text is not three positive integers.
    """
    from nas.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError([f"--input must be C,H,W, three positive integers such as 3,32,32, got {text!r}"])
    channels, height, width = map(int, parts)
    return channels, height, width


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float], None]]:
    """Yields a function that shows the completed share, in [0, 1], on stderr; without a terminal it shows nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda share: None
        return
    with console.status(what) as status:
        yield lambda share: status.update(f"{what}: {share:.0%}")
