"""Results of the paper's search when every child is a fully trained CIFAR-10 network.

Claim (Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846): architecture search by reinforcement
learning, with adversarial accuracy as the reward, finds networks that are more robust to white-box and black-box attacks;
adversarial accuracy correlates with clean accuracy, and weakly with model size.

Method: the children (the networks of a search) are looked up in a table instead of trained. The best child of a search is
its pick. The table has all 15,625 cells of NAS-Bench-201 under FGSM and PGD (white box) and Square (black box). It is
`nasbench201-robustness.csv.gz` in the folder HARDCELL_DATA; `measured.py` describes it. Its networks have standard training,
but the paper's children are trained on adversarial images. There are three analyses:

- Correlates of adversarial accuracy.
- Results of the PPO controller with accuracy under PGD at 1/255 as reward, against random search and known cells, also
  under attacks that are not part of the reward.
- Operations of the most robust networks.

The table covers the whole space without sampling. So there are no intervals, and p-values exist only for comparisons over
seeds of the search. Each network is trained once. The report gives the standard deviation between trainings of the same
function.

    python examples/papers/table_search.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import measured
import numpy as np
import optuna
from matplotlib.figure import Figure
from measured import (
    ATTACKS,
    CLEAN,
    EPSILONS,
    HIGH_ACCURACY,
    MEASURES,
    MIN_CLEAN_ACCURACY,
    OPERATIONS,
    PREDICTORS,
    REWARD,
    SPACE,
    TABLE,
    TASKS,
    format_measure,
)
from scipy.stats import wilcoxon

from evaluators import check_table, explain, holm
from evaluators.table import read_table
from nas.pipeline.controller import Controller
from nas.pipeline.events import TrialFinished
from nas.plots.style import COLOURS, GREY, INK, STYLE
from nas.samplers import SAMPLERS, StudySampler
from nas.study.storage import silence_optuna

if TYPE_CHECKING:
    from pathlib import Path

    from measured import Cells

SAMPLER_NAMES = ("ppo", "random")
SEARCH_SIZES = {"smoke": (2, 20), "default": (20, 200), "full": (100, 200)}  # Seeds, and trials of each.
SIGNS = {"better": 1, "worse": -1, "neither": 0}
REPORTED_TRIALS = (8, 20, 50, 100, 150, 200)
SIZE_MATCHED = "median cell of its size"  # Cells with parameters within 10 % of those of a pick.
# The plain residual network of NAS-Bench-201: x + conv3x3(conv3x3(x)).
RESIDUAL = {"edge01": "conv3x3", "edge02": "none", "edge12": "conv3x3", "edge03": "skip", "edge13": "none", "edge23": "skip"}


def search(path: Path, folder: Path, task: str, sampler: str, seed: int, trials: int) -> list[int]:
    """Runs a search and returns the index of the proposed cell of each trial."""
    silence_optuna()
    evaluate, keys = measured.open_evaluator(path, task)
    settings = replace(evaluate.config.search, trials=trials, sampler=SAMPLERS[sampler]())
    evaluate = replace(evaluate, config=replace(evaluate.config, search=settings))
    storage = optuna.storages.InMemoryStorage()
    random_trials = settings.random_trials
    sampler_adapter = StudySampler(settings.sampler, evaluate.space, seed=seed, random_trials=random_trials, keys=keys)
    study = optuna.create_study(storage=storage, sampler=sampler_adapter, directions=["minimize"])
    for event in Controller(study, storage, evaluate, folder).trials():
        assert not isinstance(event, TrialFinished) or event.trial.state == "complete", event.trial.reason
    return [evaluate.space.index(trial.params) for trial in study.trials]


def quartiles(values: np.ndarray) -> list[float]:
    """Returns the lower quartile, the median and the upper quartile."""
    return np.quantile(values, [0.25, 0.5, 0.75]).round(4).tolist() if len(values) else [math.nan] * 3


def feasible(all_cells: Cells, task: str) -> np.ndarray:
    """Returns a mask (N,) of the cells that satisfy the constraint of a task."""
    return all_cells.numbers[CLEAN] >= (MIN_CLEAN_ACCURACY if task == "bounded" else 0)


def best_so_far(all_cells: Cells, task: str, proposed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best reward after each trial (S, T) and the best cell of each seed (S,).

    The reward is 0 before the first feasible trial. The cell is -1 if no trial is feasible.

    Args:
        all_cells: All cells.
        task: Task, which sets the constraint.
        proposed: Indices of the proposed cells (S, T), for S seeds and T trials.
    """
    rewards = np.where(feasible(all_cells, task)[proposed], all_cells.numbers[REWARD][proposed], 0.0)
    picks = np.take_along_axis(proposed, rewards.argmax(1)[:, None], 1)[:, 0]
    return np.maximum.accumulate(rewards, axis=1), np.where(rewards.max(1) > 0, picks, -1)


def references(all_cells: Cells, task: str) -> dict[str, dict]:
    """Returns the reference cells by name: the index of the cell (None for a median over cells) and its numbers."""
    feasible_cells = feasible(all_cells, task)
    single_cells = {
        "residual cell": SPACE.index(RESIDUAL),
        "highest clean accuracy": int(all_cells.numbers[CLEAN].argmax()),
        "best of the space": int(np.where(feasible_cells, all_cells.numbers[REWARD], -1).argmax()),
    }
    known = {
        name: {"cell": cell, **{key: float(values[cell]) for key, values in all_cells.numbers.items()}}
        for name, cell in single_cells.items()
    }
    # The median of each number separately.
    drawn = {key: float(np.median(values[feasible_cells])) for key, values in all_cells.numbers.items()}
    return {**known, "median random cell": {"cell": None, **drawn}}


def size_matched_medians(all_cells: Cells, task: str, picks: np.ndarray, name: str) -> np.ndarray:
    """Returns the median (S,) of a number over feasible cells of about the size of each pick (S,); 0 for pick -1."""
    sizes, feasible_cells = all_cells.numbers["parameters"], feasible(all_cells, task)
    similar_size = [feasible_cells & (abs(sizes - sizes[pick]) <= 0.1 * sizes[pick]) for pick in picks]
    return np.array(
        [np.median(all_cells.numbers[name][cells]) if p >= 0 else 0.0 for p, cells in zip(picks, similar_size, strict=True)]
    )


def compare(all_cells: Cells, picks: dict[tuple[str, str], np.ndarray]) -> list[dict]:
    """Compares the picks of PPO with those of random search and with reference cells, for each task and number.

    The test is paired, because both searches of a seed share their first trials. It is Wilcoxon's signed-rank test over
    seeds, two-sided and corrected by Holm for all tasks and numbers. A seed without a feasible pick has the value 0.

    Args:
        all_cells: All cells.
        picks: Indices of the picked cells (S,), -1 for none, by task and sampler.
    """
    rows = []
    for task, name in product(TASKS, (CLEAN, *MEASURES)):
        picked = {s: np.where(picks[task, s] < 0, 0.0, all_cells.numbers[name][picks[task, s]]) for s in SAMPLER_NAMES}
        gains = (picked["ppo"] - picked["random"]).round(4)
        size_medians = size_matched_medians(all_cells, task, picks[task, "ppo"], name)
        rivals = {rival: at[name] for rival, at in references(all_cells, task).items()} | {SIZE_MATCHED: size_medians}
        rows.append(
            {
                "task": task,
                "number": name,
                "seen": name == REWARD,
                **{sampler: quartiles(values) for sampler, values in picked.items()},
                "gain": float(np.median(gains).round(4)),
                "better_seeds": int((gains > 0).sum()),
                "worse_seeds": int((gains < 0).sum()),
                "p_value": float(wilcoxon(gains).pvalue) if gains.any() else 1.0,
                # The median over seeds, and the numbers of seeds in which PPO's pick is better and worse.
                "against": {
                    rival: [float(np.median(at).round(4)), int((picked["ppo"] > at).sum()), int((picked["ppo"] < at).sum())]
                    for rival, at in rivals.items()
                },
            }
        )
    corrected = holm([row["p_value"] for row in rows])
    return [{**row, "corrected": float(p)} for row, p in zip(rows, corrected, strict=True)]


def draw_correlations(all_cells: Cells, rows: dict[str, np.ndarray], analysis: dict, file: Path) -> None:
    """Plots adversarial against clean accuracy of all networks, and the rank correlations by epsilon."""
    known = references(all_cells, "alone")
    shown = [*((f"{attack}@1", None) for attack in ATTACKS), (REWARD, CLEAN)]
    kinds = [*((f"of accuracy with {name}", "accuracy", name) for name in PREDICTORS)]
    kinds += [("of the share kept with clean accuracy", "kept", None)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15, 8), layout="constrained")
        panels = figure.subplots(2, 4)
        for axes, (name, reference) in zip(panels[0], shown, strict=True):
            axes.scatter(
                rows[CLEAN],
                rows[name] / (rows[reference] if reference else 1),
                s=1.5,
                color=GREY,
                alpha=0.3,
                label="a network",
            )
            for colour, marker, (rival, at) in zip(COLOURS[3:], "sD*v", known.items(), strict=False):
                marks = {"s": 70, "color": colour, "marker": marker, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}
                axes.scatter(at[CLEAN], at[name] / (at[reference] if reference else 1), label=rival, **marks)
            axes.set(xlabel="clean accuracy, validation images", ylim=(0, 1.25 if reference else 1))
            axes.set_ylabel("share of the clean accuracy kept" if reference else "adversarial accuracy")
            axes.set_title(f"{'share kept under ' if reference else ''}{format_measure(name)}", fontsize=10)
        for axes, (title, kind, name) in zip(panels[1], kinds, strict=True):
            for (attack, colour), (high, dash) in product(
                zip(ATTACKS, COLOURS, strict=False), (("", "-"), (HIGH_ACCURACY, "--"))
            ):
                values = [analysis["networks" + high][kind][f"{attack}@{epsilon:g}"] for epsilon in EPSILONS]
                heights = [math.nan if v is None else v for v in (value[name] if name else value for value in values)]
                style = {"color": colour, "linestyle": dash, "marker": "o", "markersize": 4}
                axes.plot(EPSILONS, heights, label=f"rank correlation, {ATTACKS[attack]}{high}", **style)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set(ylim=(-0.5, 1.02), xlabel="epsilon, in 1/255 (L∞)", ylabel="rank correlation over networks")
            axes.set_title(title, fontsize=10)
            axes.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS])
        _legend(figure, panels[:, 0], 4)
        figure.savefig(file, dpi=110)


def _legend(figure: Figure, panels: np.ndarray, columns: int) -> None:
    """Draws one legend below several panels."""
    pairs = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*pairs, strict=True), loc="outside lower center", ncols=columns, fontsize=9, markerscale=1.2)


def draw_progress(all_cells: Cells, curves: dict, compared: list[dict], file: Path) -> None:
    """Plots the best reward so far of both samplers, and the accuracies of picks and reference cells under every attack."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 9.5), layout="constrained")
        panels = figure.subplots(2, 2)
        for (task, title), above, below in zip(TASKS.items(), *panels, strict=True):
            known = references(all_cells, task)
            rows = [row for row in compared if row["task"] == task]
            for colour, sampler, shift in zip(COLOURS, SAMPLER_NAMES, (-0.15, 0.15), strict=False):
                low, median, high = np.quantile(curves[task, sampler], [0.25, 0.5, 0.75], axis=0)
                trials = np.arange(1, len(median) + 1)
                label = f"{sampler}: median and quartiles over seeds"
                above.plot(trials, median, color=colour, label=label, drawstyle="steps-post")
                above.fill_between(trials, low, high, color=colour, alpha=0.15, linewidth=0, step="post")
                ends = np.array([row[sampler] for row in rows])
                reach = abs(ends[:, [0, 2]] - ends[:, [1]]).T
                below.errorbar(np.arange(len(rows)) + shift, ends[:, 1], reach, fmt="o", color=colour, markersize=4)
            for colour, marker, (rival, at) in zip(COLOURS[3:], "sD*v", known.items(), strict=False):
                above.axhline(at[REWARD], color=colour, linestyle=":", linewidth=1.6)
                style = {"color": colour, "linestyle": "", "marker": marker, "markerfacecolor": "none"}
                below.plot([at[row["number"]] for row in rows], label=rival, **style)
            style = {"color": INK, "linestyle": "", "marker": "x"}
            below.plot(
                [row["against"][SIZE_MATCHED][0] for row in rows], label="median cell of the size of PPO's pick", **style
            )
            above.set(xlabel="trial", xlim=(1, len(trials)), title=title, ylabel="best accuracy under PGD at 1/255 so far")
            above.set_ylim(bottom=min(at[REWARD] for at in known.values()) - 0.05)
            names = [
                format_measure(row["number"]).replace(" ", "\n", 1).replace("at ", "")
                + ("\n(reward)" if row["seen"] else "")
                for row in rows
            ]
            below.set_xticks(range(len(rows)), names, fontsize=8)
            below.set(ylim=(0, 1), ylabel="accuracy", title=f"what was found after {len(trials)} trials")
            below.grid(visible=False, axis="x")
        _legend(figure, panels[:, 0], 4)
        figure.savefig(file, dpi=110)


def draw_operations(made: dict[str, dict], file: Path) -> None:
    """Plots the shares of operations in all networks and in the most robust ones, overall and by edge."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15, 8), layout="constrained")
        panels = figure.subplots(2, 3)
        for line, (title, groups) in zip(panels, made.items(), strict=True):
            for place, (colour, (name, one)) in enumerate(zip((GREY, *COLOURS), groups.items(), strict=False)):
                shares = np.mean(one["edges"], axis=0)
                label = f"{name} ({one['networks']:,})"
                line[0].bar(np.arange(len(shares)) + 0.28 * (place - 1), shares, 0.26, color=colour, label=label)
            line[0].set_title(title, fontsize=10)
            line[0].set(ylabel="share of the edges", ylim=(0, 0.8))
            line[0].grid(visible=False, axis="x")
            line[0].legend(fontsize=9, loc="upper left")
            for axes, name in zip(line[1:], ("all", "most robust hundredth"), strict=True):
                edges = np.array(groups[name]["edges"])
                axes.imshow(edges, cmap="Blues", vmin=0, vmax=1, aspect="auto")
                for edge, place in product(*map(range, edges.shape)):
                    ink = "white" if edges[edge, place] > 0.6 else "black"
                    axes.text(place, edge, f"{edges[edge, place]:.2f}", ha="center", va="center", color=ink, fontsize=9)
                axes.set_yticks(range(6), [f"{choice[4]} to {choice[5]}" for choice in SPACE.choices])
                axes.set(ylabel="edge, from node to node")
                axes.set_title(f"{name} ({groups[name]['networks']:,}): share of networks", fontsize=10)
                axes.grid(visible=False)
            for axes in line:
                axes.set_xticks(range(len(OPERATIONS)), OPERATIONS, fontsize=9)
        figure.savefig(file, dpi=110)


def format_table(result: dict) -> str:
    """Returns a table of the picks and the reference cells, one line for each task and number."""
    lines = [
        f"{'':8} {'':17} {'PPO':>22} {'random':>22}" + "".join(f" {name:>23}" for name in result["compared"][0]["against"])
    ]
    for row in result["compared"]:
        sampler_columns = "".join(
            f" {median:.3f} ({low:.3f} to {high:.3f})" for low, median, high in (row[s] for s in SAMPLER_NAMES)
        )
        rival_columns = "".join(f" {middle:23.3f}" for middle, _, _ in row["against"].values())
        lines.append(f"{row['task']:8} {format_measure(row['number']):17}{sampler_columns}{rival_columns}")
    return "\n".join(lines)


def report_text(result: dict) -> str:
    """Returns a summary of the results, a few lines for each question."""
    lines = [f"the table fails a check: {failed}" for failed in result["failed_checks"]]
    chance = result["table"]["deviations"][REWARD]
    lines.append(
        f"standard deviation of the accuracy under {format_measure(REWARD)}: {chance['within']:.3f} between trainings of "
        f"the same function, {chance['all']:.3f} between all networks"
    )
    for (name, one), attack in product(result["correlations"].items(), ATTACKS):
        at = [f"{attack}@{epsilon:g}" for epsilon in EPSILONS]
        by = [f"with {key} {_format_signed([one['accuracy'][n][key] for n in at])}" for key in PREDICTORS]
        lines.append(
            f"{one['count']:,} {name}, {ATTACKS[attack]} at 0.5, 1 and 2/255: rank correlation of accuracy {'; '.join(by)}; "
            f"of the share kept with clean accuracy {_format_signed([one['kept'][n] for n in at])}"
        )
    for task, title in TASKS.items():
        rows = [row for row in result["compared"] if row["task"] == task]
        signs = [(row["better_seeds"] > row["worse_seeds"]) - (row["better_seeds"] < row["worse_seeds"]) for row in rows]
        signs = [sign if row["corrected"] < 0.05 else 0 for sign, row in zip(signs, rows, strict=True)]
        lines.append(
            f"{title}: PPO's picks against random search's, p below 0.05 corrected: {format_comparison(rows, signs)}"
        )
        sizes = {one["sampler"]: one["parameters"] for one in result["picks"] if one["task"] == task}
        lines.append("  parameters: " + "; ".join(f"{s} {m:,.0f} ({a:,.0f} to {b:,.0f})" for s, (a, m, b) in sizes.items()))
        required_seeds = 0.75 * result["search"]["seeds"]
        for rival in rows[0]["against"]:
            counts = [row["against"][rival][1:] for row in rows]
            signs = [(better >= required_seeds) - (worse >= required_seeds) for better, worse in counts]
            lines.append(f"  against the {rival}, in three quarters of the seeds: {format_comparison(rows, signs)}")
    for (title, groups), name in product(result["made_of"].items(), measured.GROUPS):
        shares = zip(OPERATIONS, np.mean(groups[name]["edges"], axis=0), strict=True)
        shares_text = ", ".join(f"{operation} {share:.2f}" for operation, share in shares)
        lines.append(f"{title}, {name} ({groups[name]['networks']:,}): {shares_text}")
    return "\n".join(lines)


def _format_signed(values: list[float | None]) -> str:
    return ", ".join("none" if value is None else f"{value:+.2f}" for value in values)


def format_comparison(rows: list[dict], signs: list[int]) -> str:
    """Returns the names of the numbers by sign: better, worse or neither. A star marks the reward."""
    names = [format_measure(row["number"]) + (" *" if row["seen"] else "") for row in rows]
    parts = {word: [n for n, s in zip(names, signs, strict=True) if s == sign] for word, sign in SIGNS.items()}
    return "; ".join(f"{word}: {', '.join(part)}" for word, part in parts.items() if part)


def main() -> None:
    """Reads the table, runs missing searches, and writes the comparison and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    if not TABLE.exists():
        print(f"{TABLE}: no such file; set HARDCELL_DATA to the folder that holds {TABLE.name}", file=sys.stderr)
        sys.exit(2)
    seeds, trials = SEARCH_SIZES[options.size]
    folder = options.out / "searches"
    jobs = [
        (folder / f"{task}-{sampler}-{seed}.json", search, TABLE, folder, task, sampler, seed, trials)
        for seed, task, sampler in product(range(seeds), TASKS, SAMPLER_NAMES)
    ]
    proposed: dict[tuple[str, str], list] = {}
    for job, cells in zip(jobs, lab.parallel_map(lab.cached_json, jobs, options.workers, "searches"), strict=True):
        proposed.setdefault(job[4:6], []).append(cells)
    all_cells = measured.read_cells(measured.open_evaluator(TABLE, "alone")[0])
    best = {key: best_so_far(all_cells, key[0], np.array(numbers)) for key, numbers in proposed.items()}
    curves, picks = ({key: one[part] for key, one in best.items()} for part in (0, 1))
    rows = measured.populations(all_cells)
    shares_by_group = {
        name: measured.operation_shares(all_cells, rows[name]) for name in ("networks", "networks" + HIGH_ACCURACY)
    }
    result = {
        "table": measured.describe_table(all_cells, rows["networks"]),
        "failed_checks": [explain(check) for check in check_table(read_table(TABLE)) if not check.passed],
        "correlations": {name: measured.correlations(values) for name, values in rows.items()},
        "search": {"seeds": seeds, "trials": trials, "test": "Wilcoxon, two-sided, Holm for all tasks and numbers"},
        "progress": [
            {"task": task, "sampler": sampler, "trial": mark, "quartiles": quartiles(curve[:, mark - 1])}
            for (task, sampler), curve in curves.items()
            for mark in REPORTED_TRIALS
            if mark <= trials
        ],
        "references": {task: references(all_cells, task) for task in TASKS},
        "picks": [
            {
                "task": t,
                "sampler": s,
                "cells": own.tolist(),
                "parameters": quartiles(all_cells.numbers["parameters"][own[own >= 0]]),
            }
            for (t, s), own in picks.items()
        ],
        "compared": compare(all_cells, picks),
        "operations": OPERATIONS,
        "made_of": shares_by_group,
    }
    lab.write_json(options.out / "table_search.json", result)
    draw_correlations(all_cells, rows["networks"], result["correlations"], options.out / "table_search_correlations.png")
    draw_progress(all_cells, curves, result["compared"], options.out / "table_search_progress.png")
    draw_operations(shares_by_group, options.out / "table_search_cells.png")
    print(format_table(result))
    print(report_text(result))


if __name__ == "__main__":
    lab.run(main)
