"""`hardcell profile` and `hardcell check-table`: robustness profile of any network, and checks of published numbers."""

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
    from evaluators import RobustnessProfile
    from nas.cli.network_options import NetworkArguments
    from nas.cli.profile_options import ProfileArguments
    from nas.cli.requirements import RequirementArguments


@click.command()
@click.argument("network")
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="digits, mnist, fashion_mnist, cifar10, a folder of images, an .npz file, or YAML such as "
    "'{name: mnist, path: DIR}'.  [default: for a bundle the images of its search; required for other networks]",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME|YAML",
    help="An attack by name, or YAML such as '{name: pgd, steps: 40, norm: l2}'; NAME= in front sets its name. Repeatable.  "
    "[default: the attacks that a search runs on its finalists]",
)
@click.option(
    "--norm",
    type=click.Choice(["linf", "l2", "l1"]),
    help="Norm of the default attacks, or of the attacks that are given by name only.  "
    "[default: the default norm of each attack, mostly linf]",
)
@click.option(
    "--epsilon",
    "epsilons",
    multiple=True,
    metavar="E",
    help="Epsilon of the attacks, in pixel units: 8/255, not 8; repeatable.  [default: a grid chosen for the network]",
)
@click.option(
    "--union",
    metavar="YAML",
    help="Epsilon of each of several norms, such as '{linf: 8/255, l2: 0.5}', for the adversarial error over the union of "
    "their balls. The attacks need these norms.",
)
@click.option("--images", type=int, help="Maximum number of test images.  [default: 1000]")
@click.option("--exact", is_flag=True, help="Bisect each radius to a relative tolerance of 1 %, instead of using a grid.")
@click.option("--corruptions", is_flag=True, help="Also measure the errors under common corruptions.")
@click.option(
    "--certify",
    metavar="SIGMA",
    help="Also certify L2 radii by randomized smoothing, with Gaussian noise of this standard deviation in pixel units.",
)
@click.option(
    "--transfer",
    multiple=True,
    metavar="NETWORK",
    help="Source network of a transfer attack; repeatable. PGD crafts images on the source, which are tested on NETWORK. "
    "The attacks are named transfer_1, transfer_2, ...",
)
@click.option("--seed", type=int, help="Seed of all random numbers.  [default: 0]")
@click.option("--device", help="cpu, cuda, mps or auto.  [default: auto]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="New folder for profile.json, radii.npz and pictures. "
    "After an interruption, the same command resumes from the radii in it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print profile.json.")
@network_options
@requirement_options
@trust_option
def profile(
    network: str,
    out: Path | None,
    as_json: bool,
    trust: bool,
    required: RequirementArguments,
    opening: NetworkArguments,
    **options: Unpack[ProfileArguments],
) -> None:
    """Measure the robustness profile of NETWORK on test images.

    NETWORK is a bundle folder, a .pt2 file, a TorchScript file, an .onnx file, FILE.py:NAME or package.module:NAME, or
    torchvision:MODEL or timm:MODEL with --weights. NAME is a network, or a function without arguments that returns one. The
    network maps images with pixels in [0, 1] to logits; --output, --mean, --std and --resize adapt it.

    Exits 1 if a requirement of --require is not met.
    """
    try:
        # Inside the `try`, because the imports take seconds and Ctrl-C may arrive during them.
        from evaluators.profiles.stored_parts import has_parts, is_interrupted
        from nas.analysis.network_source import open_source
        from nas.analysis.profile import profile_network
        from nas.analysis.requirements import check_countable, check_profile, required_epsilons
        from nas.cli.profile_options import profile_config
        from nas.cli.profile_tables import print_profile

        requirements = open_requirements(required, out)
        interrupted = out is not None and is_interrupted(out)
        with (
            output_folder(out, "a profile", "profile.json", "radii.npz", interrupted=interrupted),
            progress_bar() as progress,
        ):
            each = parse_network_options(opening, [network, *options["transfer"]])
            source = open_source(network, options=each[0], trust=trust)
            check_countable(source.network, requirements)
            config = profile_config(source, options)
            norms = list(dict.fromkeys(attack.norm.name for attack in config.attacks.values()))
            config = replace(config, include=required_epsilons(requirements, norms))
            measured = profile_network(source, config, progress, options=each, trust=trust, resume=out)
            if out is not None:
                _write(measured, out)
    except KeyboardInterrupt:
        kept = out is not None and has_parts(out)
        outcome = f"{out} holds the parts that were measured, and the same command resumes" if kept else "nothing was kept"
        click.echo(f"\ninterrupted; {outcome}", err=True)
        sys.exit(INTERRUPTED)
    print_missing_gradients([source])
    if as_json:
        click.echo(json.dumps(measured.record, indent=2))
    else:
        print_profile(measured, config.epsilons or {})
        if out is not None:
            click.echo(f"profile: {out}")
    results = check_profile(network, measured, requirements, point=required["point"])
    finish(results, required, {network: network}, to_stderr=as_json)


def _write(measured: RobustnessProfile, folder: Path) -> None:
    """Writes a profile and its pictures."""
    from evaluators import save_profile
    from nas.plots.profile import profile_figures

    with writing(folder):
        for name, figure in profile_figures(measured).items():
            (folder / f"{name}.svg").write_text(figure, encoding="utf-8")
        # Written last: these files mark the profile as finished, and the stored parts are removed.
        save_profile(measured, folder)


@click.command("check-table")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_table(file: Path, as_json: bool) -> None:
    """Check a CSV file of published accuracies, one row a network. Exits 1 if a check fails.

    Columns are ATTACK_EPSILON, such as pgd_1.0 or fgsm_8/255, and clean, test_acc or val_acc; other columns are ignored.
    """
    from dataclasses import asdict

    from evaluators.checks import explain
    from evaluators.table import check_table as run_checks
    from evaluators.table import error_slopes, read_table
    from nas.cli.slopes import print_slopes, slopes_record
    from nas.errors import DataError

    try:
        columns = read_table(file)
        outcomes, slopes = run_checks(columns), error_slopes(columns)
    except ValueError as error:
        raise DataError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from error
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if as_json:
        records = [{**asdict(outcome), "sentence": explain(outcome)} for outcome in outcomes]
        click.echo(json.dumps({"passed": not failed, "checks": records, "slopes": slopes_record(slopes)}, indent=2))
    else:
        from nas.cli.profile_tables import print_checks

        print_checks(outcomes, all_of_them=True)
        print_slopes(slopes)
    if failed:
        sys.exit(1)
