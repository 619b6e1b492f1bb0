"""`hardcell surface`: planes and lines through a test image, as pictures and numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from nas.cli.output_folder import output_folder, writing
from nas.cli.progress import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from nas.analysis.surface.result import ImageSurfaces, Neighbourhood
    from nas.cli.surface_options import SurfaceArguments


@click.command()
@click.argument("network")
@click.option("--image", type=int, required=True, metavar="I", help="Number of the image in the test split, from 0.")
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="digits, mnist, fashion_mnist, cifar10, a folder of images, an .npz file, or YAML such as "
    "'{name: mnist, path: DIR}'.  [default: the images of a bundle's search; for other networks required]",
)
@click.option(
    "--attack",
    metavar="NAME|YAML",
    help="What finds adversarial directions, by name, or YAML such as '{name: pgd, steps: 40, norm: l2}'.  [default: pgd, "
    "in the norm of a bundle's search]",
)
@click.option(
    "--epsilon",
    metavar="E",
    help="Size of its ball, in pixel units: 8/255, not 8.  [default: that of a bundle's search; for others required]",
)
@click.option(
    "--extent", type=float, help="Pictures are so many times as wide as what spans them.  [default: 2]", metavar="X"
)
@click.option("--points", type=int, help="Points along each side of a plane.  [default: 61]")
@click.option("--others", type=int, nargs=2, metavar="J K", help="Draw the plane through these two test images, too.")
@click.option("--seed", type=int, help="Seed of all that is drawn at random.  [default: 0]")
@click.option("--device", help="cpu, cuda, mps or auto.  [default: auto]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="New folder for the pictures, as SVG and PNG, and surface.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print surface.json.")
def surface(network: str, out: Path, as_json: bool, **options: Unpack[SurfaceArguments]) -> None:
    """Draw what NETWORK says of the images around a test image.

    Planes through the image, spanned by an adversarial and a random direction, by two adversarial ones, and through three
    images, each as maps of the class, the margin and the confidence; and lines from the image along each direction, with
    every crossing of a decision boundary. Also tells which share of balls around the adversarial image stays adversarial,
    and a radius within which its class is proved. NETWORK is named as for `hardcell profile`.
    """
    try:
        # Within, for the imports take seconds, too.
        from nas.analysis.network_source import open_source
        from nas.analysis.surface.result import surface_record
        from nas.analysis.surface.surface import image_surfaces
        from nas.cli.surface_options import surface_config

        with output_folder(out, "surfaces", "surface.json"):
            source = open_source(network)
            config = surface_config(source, options)
            surfaces = image_surfaces(source, config)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; surfaces are made in one go, and nothing of these was kept", err=True)
        sys.exit(INTERRUPTED)
    record = json.dumps(surface_record(surfaces), allow_nan=False)
    _write(surfaces, record, out)
    if as_json:
        click.echo(record)
    else:
        _print(surfaces)
        click.echo(f"surfaces: {out}")


def _write(surfaces: ImageSurfaces, record: str, folder: Path) -> None:
    """Writes the numbers and the pictures."""
    from nas.analysis.surface.figures import FORMS, draw_lines, draw_surface

    with writing(folder):
        for form in FORMS:
            for name in surfaces.surfaces:
                (folder / f"{name}.{form}").write_bytes(draw_surface(surfaces, name, form))
            (folder / f"lines.{form}").write_bytes(draw_lines(surfaces, form))
        # Last, for it is what says that the folder holds surfaces.
        (folder / "surface.json").write_text(record + "\n", encoding="utf-8")


def _print(surfaces: ImageSurfaces) -> None:
    """Prints the image, a table with a row a direction, what lies around the adversarial image, and what is missing."""
    from rich.markup import escape
    from rich.table import Table

    from nas.cli.tables import open_console

    out = open_console()
    names = surfaces.classes
    label = names[surfaces.label]
    out.print(
        f"image {surfaces.config.image} of {surfaces.data}: class {label}, prediction {label}, "
        f"margin {surfaces.margin:.3g} logits, confidence {surfaces.confidence:.3f}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table("direction", "leads to", "L2 size", "L∞ size", "first crossing, L2", "into")
    for name, endpoint in surfaces.endpoints.items():
        crossings = surfaces.lines[name].crossings
        end = f"none up to {surfaces.lines[name].positions[-1]:.3g}"
        first = (f"{crossings[0].position:.4g}", names[crossings[0].after]) if crossings else (end, "")
        cells = (name, names[endpoint.label], f"{endpoint.l2:.4g}", f"{endpoint.linf:.4g}", *first)
        table.add_row(*map(escape, cells))
    out.print(table)
    if surfaces.neighbourhood is not None:
        _print_around(out, surfaces.neighbourhood, names[surfaces.endpoints["adversarial"].label])
    for note in surfaces.notes:
        out.print(note, markup=False, highlight=False, soft_wrap=True)


def _print_around(out: Console, around: Neighbourhood, wrong: str) -> None:
    """Prints the shares of balls around the adversarial image that stay adversarial, and what is proved of its class."""
    from rich.table import Table

    from evaluators.bounds import NoBound
    from nas.plots.style import NORM_NAMES

    norm, balls = NORM_NAMES.get(around.norm, around.norm), around.balls
    meaning = f"of {balls.samples} random points in each the share that stays adversarial, with 95 % intervals"
    out.print(f"{norm} balls around the adversarial image: {meaning}", markup=False, highlight=False, soft_wrap=True)
    table = Table("radius", "of the perturbation's size", "share")
    for radius, share, (low, high) in zip(balls.radii, balls.share[0], balls.interval[0], strict=True):
        table.add_row(f"{radius:.3g}", f"{radius / around.size:.3g}", f"{share:.3f} [{low:.3f}, {high:.3f}]")
    out.print(table)
    if isinstance(around.proved, NoBound):
        proof = f"no radius is proved around the adversarial image: {around.proved.reason.partition(chr(10))[0]}"
    elif around.proved == 0:
        proof = "no radius is proved around the adversarial image: the bounds part its class from the others at none above 0"
    else:
        proof = (
            f"proved: within {norm} distance {around.proved:.3g} of the adversarial image every image is of class {wrong}, "
            "too: infinitely many adversarial images"
        )
    out.print(proof, markup=False, highlight=False, soft_wrap=True)
