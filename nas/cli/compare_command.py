"""`hardcell compare`: several networks side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from nas.cli.network_options import network_options, parse_network_options, print_missing_gradients
from nas.cli.output_folder import output_folder, writing
from nas.cli.progress import INTERRUPTED, progress_bar
from nas.cli.requirements import finish, open_requirements, requirement_options
from nas.cli.trust import trust_option

if TYPE_CHECKING:
    from nas.analysis.compare.result import NetworkComparison
    from nas.cli.compare_options import CompareArguments
    from nas.cli.network_options import NetworkArguments
    from nas.cli.requirements import RequirementArguments


@click.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK NETWORK...")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Display name of a network; repeatable, in the order of NETWORKs.  [default: from the path or bundle]",
)
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="digits, mnist, fashion_mnist, cifar10, a folder of images, an .npz file, or YAML such as "
    "'{name: mnist, path: DIR}'.  [default: the images of the bundles' searches, if all used the same]",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME|YAML",
    help="An attack by name, or YAML such as '{name: pgd, steps: 40, norm: l2}'; NAME= in front sets its name. Repeatable; "
    "all attacks must have the same norm. Radii are the worst case over the attacks.  [default: fgsm, pgd and fmn, in the "
    "norm of the bundles' searches; in linf if that is l1]",
)
@click.option(
    "--epsilon",
    "epsilons",
    multiple=True,
    metavar="E",
    help="Epsilon of the paired tests and of transfer, in pixel units: 8/255, not 8; repeatable.  [default: the epsilons of "
    "the bundles' searches, and further ones chosen for the networks]",
)
@click.option("--images", type=int, help="Maximum number of test images.  [default: 1000]")
@click.option("--seed", type=int, help="Seed of all random numbers.  [default: 0]")
@click.option("--device", help="cpu, cuda, mps or auto.  [default: auto]")
@click.option("--out", type=click.Path(path_type=Path), help="New folder for compare.json and pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print compare.json.")
@network_options
@requirement_options
@trust_option
def compare(
    networks: tuple[str, ...],
    names: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    trust: bool,
    required: RequirementArguments,
    opening: NetworkArguments,
    **options: Unpack[CompareArguments],
) -> None:
    """Compare several networks on the same images.

    The output has error curves, paired tests, transferability and disagreement.

    A NETWORK is as for `hardcell profile`. --output, --mean, --std and --resize apply to all networks that are not bundles.

    Exits 1 if a network does not meet a requirement of --require.
    """
    try:
        # Inside the `try`, because the imports take seconds and Ctrl-C may arrive during them.
        from nas.analysis.compare.compare import compare_networks
        from nas.analysis.compare.result import as_record
        from nas.analysis.network_source import check_distinct, open_source
        from nas.analysis.requirements import check_comparison, required_epsilons
        from nas.cli.compare_options import compare_config
        from nas.cli.compare_tables import print_comparison

        requirements = open_requirements(required, out, counts=False)
        each = parse_network_options(opening, networks)
        check_distinct(networks, names, each)
        with output_folder(out, "a comparison", "compare.json"), progress_bar() as progress:
            sources = [open_source(network, options=one, trust=trust) for network, one in zip(networks, each, strict=True)]
            config = compare_config(sources, options)
            norm = next(iter(config.attacks.values())).norm.name
            config = replace(config, include=required_epsilons(requirements, [norm]).get(norm, ()))
            comparison = compare_networks(sources, config, names=names, progress=progress)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; nothing was kept, because a comparison cannot be resumed", err=True)
        sys.exit(INTERRUPTED)
    print_missing_gradients(sources)
    if out is not None:
        _write(comparison, out)
    if as_json:
        click.echo(json.dumps(as_record(comparison), indent=2))
    else:
        print_comparison(comparison)
        if out is not None:
            click.echo(f"comparison: {out}")
    results = check_comparison(comparison, requirements, point=required["point"])
    finish(results, required, comparison.sources, to_stderr=as_json)


def _write(comparison: NetworkComparison, folder: Path) -> None:
    """Writes a comparison and its pictures."""
    from nas.analysis.compare.figures import compare_figures
    from nas.analysis.compare.result import as_record

    with writing(folder):
        for name, picture in compare_figures(comparison).items():
            (folder / name).write_bytes(picture)
        # Written last: this file marks the folder as a complete comparison.
        (folder / "compare.json").write_text(json.dumps(as_record(comparison), indent=2) + "\n", encoding="utf-8")
