"""`hardcell space`: a search space looked at, drawn and checked before a search."""

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
    """The options of `hardcell space`, as they are typed; None where one is left out.

    Attributes:
        options: The space's own, each as KEY=VALUE.
        samples: Number of random architectures.
        shape: Shape of an image, as C,H,W.
        classes: Number of classes.
        seed: Seed of all that is drawn.
        timed: Measure the time of one image, too.
        drawing: File of the drawing, .svg or .png.
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
    help="Set an option of the space, such as channels=8, as --set space.channels=8 does in a search; repeatable.",
)
@click.option("--samples", type=click.IntRange(1), help="Number of random architectures.  [default: 100; with --check 20]")
@click.option("--input", "shape", metavar="C,H,W", help="Shape of an image.  [default: 3,32,32; with --check three shapes]")
@click.option("--classes", type=click.IntRange(1), help="Number of classes.  [default: 10; with --check 7]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all that is drawn.")
@click.option("--latency", "timed", is_flag=True, help="Measure the time of one image on this machine's CPU, too.")
@click.option("--draw", "drawing", type=click.Path(path_type=Path), metavar="FILE", help="Draw a random one: .svg or .png.")
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="Draw so many: FILE-1.svg, FILE-2.svg, ..."
)
@click.option("--check", "checked", is_flag=True, help="Check that the space holds what a search takes for granted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def space(space: str, **options: Unpack[SpaceArguments]) -> None:
    """Show, draw or check the search space SPACE: its size, its choices, and what its networks cost.

    SPACE is a name (cell201, darts, ...), path/to/file.py:NAME, package.module:NAME, or a YAML file, for the space of that
    config. With --check, exits 2 if a check fails.
    """
    try:
        # Within, for the imports take seconds, too.
        passed = _run(space, options)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; nothing but drawings was written", err=True)
        sys.exit(INTERRUPTED)
    if not passed:
        sys.exit(2)


def _run(reference: str, options: SpaceArguments) -> bool:
    """Does what the options say; returns False where checks were made and one did not pass."""
    from nas.analysis.spaces import draw, drawing_paths, find_space, random_architectures
    from nas.errors import ConfigError

    shape = None if options["shape"] is None else _shape(options["shape"])
    drawing, count = options["drawing"], options["count"]
    if count > 1 and drawing is None:
        raise ConfigError(["--count is the number of drawings: give --draw FILE, too"])
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
    """Prints the outcomes of the checks of a space; returns whether all passed."""
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
    """Prints the size, the choices and the cost of a space; returns True, for nothing was checked."""
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
    """Returns C,H,W as numbers.

    Raises:
        ConfigError: it is not that.
    """
    from nas.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError([f"--input must be C,H,W, three whole numbers from 1 on such as 3,32,32, got {text!r}"])
    channels, height, width = map(int, parts)
    return channels, height, width


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float], None]]:
    """Yields what shows the share that is done on stderr; shows nothing where that is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda share: None
        return
    with console.status(what) as status:
        yield lambda share: status.update(f"{what}: {share:.0%}")
