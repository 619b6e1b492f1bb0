"""`hardcell surface`: planes and lines through a test image, as pictures and numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from nas.cli.network_options import network_options, parse_network_options, print_missing_gradients
from nas.cli.output_folder import output_folder, writing
from nas.cli.progress import INTERRUPTED
from nas.cli.trust import trust_option

if TYPE_CHECKING:
    from rich.console import Console

    from nas.analysis.surface.result import ImageSurfaces, Neighbourhood
    from nas.cli.network_options import NetworkArguments
    from nas.cli.surface_options import SurfaceArguments


@click.command()
@click.argument("network")
@click.option("--image", type=int, required=True, metavar="I", help="Number of the image in the test split, from 0.")
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="digits, mnist, fashion_mnist, cifar10, a folder of images, an .npz file, or YAML such as "
    "'{name: mnist, path: DIR}'.  [default: for a bundle the images of its search; required for other networks]",
)
@click.option(
    "--attack",
    metavar="NAME|YAML",
    help="Attack that finds the adversarial directions: a name, or YAML such as '{name: pgd, steps: 40, norm: l2}'.  "
    "[default: pgd; for a bundle in the norm of its search]",
)
@click.option(
    "--epsilon",
    metavar="E",
    help="Radius of the attack's ball, in pixel units: 8/255, not 8.  [default: for a bundle the epsilon of its search; "
    "required for other networks]",
)
@click.option(
    "--extent",
    type=float,
    help="Size of each plane: X times the box around the images that the plane goes through.  [default: 2]",
    metavar="X",
)
@click.option("--points", type=int, help="Points along each side of a plane.  [default: 61]")
@click.option(
    "--others", type=int, nargs=2, metavar="J K", help="Also draw the plane through the image and the test images J and K."
)
@click.option("--seed", type=int, help="Seed of all random numbers.  [default: 0]")
@click.option("--device", help="cpu, cuda, mps or auto.  [default: auto]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="New folder for the pictures, as SVG and PNG, and surface.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print surface.json.")
@network_options
@trust_option
def surface(
    network: str, out: Path, as_json: bool, trust: bool, opening: NetworkArguments, **options: Unpack[SurfaceArguments]
) -> None:
    """Draw the response surfaces of NETWORK around a test image.

    Each plane goes through the image and is drawn as maps of class, margin and confidence. Planes are spanned by an
    adversarial and a random direction, by two adversarial directions, or by two further images. Lines follow each direction
    and mark the detected crossings of decision boundaries. The output also has the share of adversarial points in balls
    around the adversarial image, and a radius within which bounds certify the class. NETWORK is as for `hardcell profile`.
    """
    try:
        # Inside the `try`, because the imports take seconds and Ctrl-C may arrive during them.
        from nas.analysis.network_source import open_source
        from nas.analysis.surface.result import surface_record
        from nas.analysis.surface.surface import image_surfaces
        from nas.cli.surface_options import surface_config

        with output_folder(out, "surfaces", "surface.json"):
            (of_network,) = parse_network_options(opening, [network])
            source = open_source(network, options=of_network, trust=trust)
            config = surface_config(source, options)
            surfaces = image_surfaces(source, config)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; nothing is kept: surfaces cannot be resumed", err=True)
        sys.exit(INTERRUPTED)
    print_missing_gradients([source])
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
        # Written last: this file marks the folder as complete.
        (folder / "surface.json").write_text(record + "\n", encoding="utf-8")


def _print(surfaces: ImageSurfaces) -> None:
    """Prints the image, a table of directions, the balls around the adversarial image, and notes on missing parts."""
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
    table = Table("direction", "class at the end", "L2 size", "L∞ size", "first crossing, L2", "class after it")
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
    """Prints shares of adversarial points in balls around the adversarial image, and the certified radius of its class."""
    from rich.table import Table

    from evaluators.bounds import NoBound
    from nas.plots.style import NORM_NAMES

    norm, balls = NORM_NAMES.get(around.norm, around.norm), around.balls
    meaning = f"share of adversarial points among {balls.samples} random points in each ball, with 95 % intervals"
    out.print(f"{norm} balls around the adversarial image: {meaning}", markup=False, highlight=False, soft_wrap=True)
    table = Table("radius", "radius / perturbation size", "share")
    for radius, share, (low, high) in zip(balls.radii, balls.share[0], balls.interval[0], strict=True):
        table.add_row(f"{radius:.3g}", f"{radius / around.size:.3g}", f"{share:.3f} [{low:.3f}, {high:.3f}]")
    out.print(table)
    if isinstance(around.proved, NoBound):
        proof = f"no radius is certified around the adversarial image: {around.proved.reason.partition(chr(10))[0]}"
    elif around.proved == 0:
        proof = "no radius is certified around the adversarial image: the bounds are too loose"
    else:
        proof = (
            f"certified by bounds: all images within {norm} distance {around.proved:.3g} of the adversarial image are of "
            f"class {wrong}"
        )
    out.print(proof, markup=False, highlight=False, soft_wrap=True)
