"""Report of a run: one HTML page with embedded pictures, which needs no internet connection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evaluators import CheckResult, explain
from evaluators.profiles.attack_quality import quality_sentence
from evaluators.profiles.attack_rows import attack_rows, prefactor_text
from evaluators.profiles.law_case import law_case
from evaluators.profiles.law_entries import worst_case_law
from evaluators.profiles.union import error_over_union
from nas.bundle.union_text import union_text
from nas.config.evaluators import TableEvaluatorConfig
from nas.config.metrics import CHEAP_METRICS, STANDARD_METRICS
from nas.errors import first_line
from nas.files import write_atomic
from nas.formatting import format_epsilon, format_p_value
from nas.plots.cells import draw
from nas.plots.profile import profile_figures
from nas.plots.style import NORM_NAMES
from nas.reports.network_pairs import report_network_pairs
from nas.reports.networks import duplicates, load_bundles
from nas.reports.search_figures import (
    best_so_far,
    clean_against_adversarial,
    error_curves,
    front_figures,
    rungs_reached,
    worst_case_laws,
)
from nas.reports.statistics_text import correlations_sentences, exponents_sentence, nearest_sentence
from nas.reports.surfaces import report_surfaces
from nas.reports.verdict import verdicts
from nas.runs.leaderboard import write_leaderboard
from nas.runs.run import read_run
from nas.spaces.options import open_space
from nas.study.ranking import front, ranked
from nas.study.trial import ENDED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nas.bundle.load import Bundle
    from nas.runs.run import Run
    from nas.study.trial import Trial

SHOWN_TRIALS = 20
CAPTIONS = {
    "margins": "Densities of up to three differences, over the correctly classified images: the label's logit minus the "
    "largest, the second and the third largest logit of the wrong classes.",
    "corruptions": "Error under common corruptions.",
    "certificates": "Certified error of the randomized-smoothing classifier.",
}


def report(path: Path | str, *, trust: bool = False) -> Path:
    """Writes report.html and leaderboard.csv for a run, finished or not, and returns the path of report.html.

    Args:
        path: Folder of the run.
        trust: Import the code that the run's config refers to. Without it, architectures of a custom space are not drawn.

    Raises:
        HardcellError: the folder holds no run, or its config or study is damaged.

    Example:
        >>> import nas
        >>> nas.report("runs/digits").name
        'report.html'
    """
    run = read_run(path, trust=trust)
    write_leaderboard(run.folder, run.trials, run.config.objective)
    write_report(run, trust=trust)
    return run.folder.report


def write_report(run: Run, *, trust: bool = False) -> None:
    """Writes report.html into the folder of a run, atomically."""
    write_atomic(run.folder.report, render_report(run, trust=trust))


def render_report(run: Run, *, trust: bool = False) -> str:
    """Returns the HTML text of the report of a run, finished or not."""
    config, trials = run.config, list(run.trials)
    board = ranked(trials, config.objective)
    states = {s: sum(t.state == s for t in trials) for s in (*ENDED, "running")}
    metrics = list(dict.fromkeys([*config.objective.metrics(), *STANDARD_METRICS]))
    metrics = [name for name in metrics if all(name in trial.metrics for trial in board)]
    fronts = {trial.number for trial in front(trials, config.objective)}
    opened, left_out = load_bundles(run.bundles, trust=trust)
    copies = duplicates(run.bundles)
    surfaces = report_surfaces(opened, images=1)
    together = report_network_pairs(
        {name: one for name, one in opened.items() if name not in copies}, config.evaluation.epsilon, config.norm
    )
    laws = worst_case_laws(run.bundles, config.norm)
    environment = Environment(
        loader=PackageLoader("nas", "reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("template.html").render(
        name=run.folder.path.name,
        config=config,
        epsilon=format_epsilon(config.evaluation.epsilon),
        norm=NORM_NAMES.get(config.norm, config.norm),
        union=union_text(config.epsilons_by_norm) if config.evaluation.other_norms else None,
        format_p_value=format_p_value,
        prefactor_text=prefactor_text,
        infinity=math.inf,
        states=states,
        trials=trials,
        duplicates=sum(t.duplicate_of is not None for t in trials),
        failures=[t for t in trials if t.state == "failed"],
        board=[_row(rank, trial, fronts) for rank, trial in enumerate(board[:SHOWN_TRIALS], start=1)],
        metrics=metrics,
        counts=CHEAP_METRICS,
        front=len(fronts),
        several=len(config.objective.minimise) > 1,
        trained=not isinstance(config.evaluator, TableEvaluatorConfig),
        unshown=max(0, len(board) - SHOWN_TRIALS),
        verdicts=verdicts(run),
        bundles=[_bundle(bundle, run, surfaces.get(bundle.name, ()), trust) for bundle in run.bundles],
        check_columns=list(dict.fromkeys(c["name"] for bundle in run.bundles for c in bundle.profile.record["checks"])),
        damaged=run.damaged,
        search_figure=Markup(best_so_far(trials, config.objective)) if board else None,
        scatter_figure=(
            Markup(clean_against_adversarial(trials, config.objective))
            if board and {"clean_error", "adversarial_error"} <= {*metrics}
            else None
        ),
        front_figures=[Markup(figure) for figure in front_figures(trials, config.objective)] if board else [],
        rungs_figure=Markup(rungs_reached(trials)) if any(trial.rungs for trial in trials) else None,
        curves_figure=(
            Markup(error_curves(run.bundles, laws, config.norm, config.evaluation.epsilon)) if run.bundles else None
        ),
        exponents=exponents_sentence({name: law for name, law in laws.items() if name not in copies}),
        left_out=left_out,
        copies=copies,
        correlations=correlations_sentences(trials),
        together=together,
        together_figures=[Markup(figure) for figure in together.pictures],
        config_text=run.folder.config.read_text(encoding="utf-8"),
        refused=run.refused,
        environment_text=(
            run.folder.environment.read_text(encoding="utf-8") if run.folder.environment.exists() else "not recorded yet"
        ),
    )


def _row(rank: int, trial: Trial, fronts: set[int]) -> dict[str, Any]:
    return {
        "rank": rank,
        "trial": trial.number,
        "key": trial.key,
        "metrics": trial.metrics,
        "feasible": trial.violation == 0,
        "front": trial.number in fronts,
        "seconds": trial.seconds,
        "origin": "random" if trial.random else "sampler",
        "architecture": ", ".join(str(value) for value in trial.architecture.values()),
    }


def _bundle(bundle: Bundle, run: Run, surfaces: Sequence[tuple[str, str]], trust: bool) -> dict[str, Any]:
    """Returns the template's entries for one bundle; `surfaces` are pictures with captions."""
    record, epsilon, norm = bundle.profile.record, run.config.evaluation.epsilon, run.config.norm
    drawing, undrawn = None, None
    try:
        drawn = draw(open_space(bundle.stored.space, trust=trust), bundle.stored.architecture)
        drawing = None if drawn is None else Markup(drawn.decode())
    except Exception as error:
        # The file of a custom space may be missing, or its `draw` may fail; the report then has no drawing.
        undrawn = first_line(error)
    figures = profile_figures(bundle.profile, norm, epsilon)
    return {
        "name": bundle.name,
        "role": bundle.role,
        "clean_error": record["clean_error"],
        "adversarial_error": error_over_union(bundle.profile, epsilon, norm),
        "parameters": record["cost"]["parameters"] or 0,
        "macs": record["cost"]["macs"] or 0,
        "failed_checks": bundle.profile.failed_checks(),
        "checks": {check["name"]: {**check, "sentence": explain(CheckResult(**check))} for check in record["checks"]},
        "attacks": attack_rows(bundle.profile),
        "quality": quality_sentence(bundle.profile, norm),
        "law_case": law_case(record["clean_error"], worst_case_law(bundle.profile, norm)),
        "margins": record["margins"],
        "nearest": nearest_sentence(record["margins"]),
        "drawing": drawing,
        "undrawn": undrawn,
        "curves": Markup(figures.pop("error_curves")),
        "pictures": [(Markup(figure), CAPTIONS[name]) for name, figure in figures.items()],
        "surfaces": [(Markup(figure), caption) for figure, caption in surfaces],
        "n": record["n"],
        "first_order_medians": " and ".join(
            f"{entry['median_radius']:.3g} in {NORM_NAMES.get(norm, norm)}"
            for norm, entry in record["margins"]["first_order"].items()
            if entry["median_radius"] is not None
        ),
        # Older profiles lack the mean field.
        "mean_field": all("mean_field_error" in entry for entry in record["margins"]["first_order"].values()),
    }
