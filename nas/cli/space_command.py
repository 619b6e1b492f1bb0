"""`hardcell space`: a search space looked at, drawn and checked before a search."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nas.cli.progress import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SAMPLES, SHAPE, CLASSES = 100, (3, 32, 32), 10


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
@click.option("--check", "checked", is_flag=True, help="CheckResult that the space holds what a search takes for granted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def space(
    space: str,
    options: tuple[str, ...],
    samples: int | None,
    shape: str | None,
    classes: int | None,
    seed: int,
    timed: bool,
    drawing: Path | None,
    count: int,
    checked: bool,
    as_json: bool,
) -> None:
    """Show, draw or check the search space SPACE: its size, its choices, and what its networks cost.

    SPACE is a name (cell201, darts, ...), path/to/file.py:NAME, package.module:NAME, or a YAML file, for the space of that
    config. With --check, exits 2 if a check fails.
    """
    try:
        # Within, for the imports take seconds, too.
        passed = _run(space, options, samples, shape, classes, seed, timed, drawing, count, checked, as_json)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; nothing but drawings was written", err=True)
        sys.exit(INTERRUPTED)
    if not passed:
        sys.exit(2)


def _run(
    reference: str,
    options: tuple[str, ...],
    samples: int | None,
    shape: str | None,
    classes: int | None,
    seed: int,
    timed: bool,
    drawing: Path | None,
    count: int,
    checked: bool,
    as_json: bool,
) -> bool:
    """Does what the options say; returns False where checks were made and one did not pass."""
    from nas.analysis.spaces import check, draw, drawing_paths, find_space, random_architectures, summarise
    from nas.cli.space_tables import findings_record, print_findings, print_summary, summary_record
    from nas.errors import ConfigError

    given = None if shape is None else _shape(shape)
    if count > 1 and drawing is None:
        raise ConfigError(["--count is the number of drawings: give --draw FILE, too"])
    found = find_space(reference, options)
    paths = [] if drawing is None else drawing_paths(found, drawing, count)
    if paths:
        draw(found, random_architectures(found, len(paths), seed), paths)
    if checked:
        with _progress("checking the space"):
            findings = check(found, samples=samples, seed=seed, shape=given, classes=classes)
        passed = all(finding.passed for finding in findings)
        record = {"name": found.name, "passed": passed, "checks": findings_record(findings)}
    else:
        passed = True
        images, outputs = given or SHAPE, classes or CLASSES
        architectures = random_architectures(found, samples or SAMPLES, seed)
        with _progress("building networks") as progress:
            summary = summarise(found, architectures, images, outputs, seed=seed, timed=timed, progress=progress)
        record = {**summary_record(found, summary), "input": images, "classes": outputs, "seed": seed}
    if as_json:
        click.echo(json.dumps({**record, "drawings": list(map(str, paths))}, indent=2))
        return passed
    if checked:
        print_findings(found, findings)
    else:
        print_summary(found, summary, images, outputs)
    for path in paths:
        click.echo(f"drawing: {path}")
    return passed


def _shape(text: str) -> tuple[int, int, int]:
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
