"""Samplers compared on a table of measured architectures, through the controller and the tabular evaluator.

Each task is a search of the cells of NAS-Bench-201 on the table of their accuracies under attack, from ../shared/data or the
folder in HARDCELL_DATA. Every sampler runs with its default settings, 8 random first trials and 20 seeds. The results of a
search are stored when it ends, so an interrupted run can be continued. The output is a figure and a table for each task:
median and quartiles of the best value so far, or of the hypervolume if there are two objectives.

    python tests/benchmarks/samplers.py --out FOLDER [--tasks pgd ...] [--samplers surrogate ...] [--seeds 20]
        [--first-seed 0] [--trials 250]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import optuna
import torch

import nas
from nas.evaluation.table import TableLookup, open_table
from nas.pareto import hypervolume_history
from nas.pipeline.controller import Controller
from nas.pipeline.events import TrialFinished
from nas.plots.style import COLOURS, STYLE, new_figure
from nas.samplers import SAMPLERS, Sampler, StudySampler, Surrogate
from nas.spaces.options import open_space
from nas.study.storage import silence_optuna

SHARED = Path(os.environ.get("HARDCELL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
TABLE = SHARED / "nasbench201-robustness.csv.gz"
COLUMNS = {
    "clean_error": "1 - val_acc / 100",
    "pgd_error": "1 - pgd_1.0 / 100",
    "pgd2_error": "1 - pgd_2.0 / 100",
    "fgsm_error": "1 - fgsm_1.0 / 100",
    "square_error": "1 - square_1.0 / 100",
    "latency": "raspi4_latency_ms",
}
# Parameters of a network whose cells have no weights, and the parameters that an operation on one edge adds. There are 5
# cells each of 16, 32 and 64 channels, and batch norm is included.
SMALLEST = 73_306
WEIGHTS = {
    "conv1x1": sum(5 * (c * c + 2 * c) for c in (16, 32, 64)),
    "conv3x3": sum(5 * (9 * c * c + 2 * c) for c in (16, 32, 64)),
}
MARKS = (20, 30, 50, 60, 100, 150, 200, 250)


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Attributes:
        title: Title of the figure.
        minimise: Metrics to minimise.
        constraints: Upper bounds of metrics, by name.
    """

    title: str
    minimise: tuple[str, ...]
    constraints: dict[str, float]


TASKS = {
    "pgd": Task("accuracy under PGD, 1/255", ("pgd_error",), {}),
    "pgd_clean90": Task("accuracy under PGD, 1/255, clean accuracy at least 90 %", ("pgd_error",), {"clean_error": 0.1}),
    "pgd_parameters": Task("error under PGD, 1/255, and parameters", ("pgd_error", "parameters"), {}),
    "fgsm": Task("accuracy under FGSM, 1/255", ("fgsm_error",), {}),
    "square": Task("accuracy under Square, 1/255", ("square_error",), {}),
    "fgsm_clean90": Task("accuracy under FGSM, 1/255, clean accuracy at least 90 %", ("fgsm_error",), {"clean_error": 0.1}),
    "pgd_latency": Task("error under PGD, 1/255, and latency on a Raspberry Pi 4", ("pgd_error", "latency"), {}),
    "latency_clean90": Task("latency in ms, clean accuracy at least 90 %", ("latency",), {"clean_error": 0.1}),
    "pgd2_small": Task("accuracy under PGD, 2/255, at most 0.5 M parameters", ("pgd2_error",), {"parameters": 5e5}),
}


def open_task(task: Task) -> TableLookup:
    """Returns the tabular evaluator of a task."""
    settings = {
        "space": "cell201",
        "evaluator": {"name": "table", "path": str(TABLE), "columns": COLUMNS},
        "objective": {"minimise": list(task.minimise), "constraints": task.constraints},
    }
    config = nas.parse_config(settings)
    evaluate = open_table(config, open_space(config.space, trust=True))
    for architecture in evaluate.space.enumerate():
        # This sum is exact, because only convolutions have weights. To build and count a network takes 0.1 s.
        size = SMALLEST + sum(WEIGHTS.get(operation, 0) for operation in architecture.values())
        evaluate.counted[tuple(architecture.values())] = {"parameters": float(size)}
    return evaluate


def open_sampler(name: str) -> Sampler:
    """Returns a sampler with its default settings, or the surrogate with another start for a name such as surrogate:20."""
    name, _, start = name.partition(":")
    return replace(Surrogate(), start=int(start)) if start else SAMPLERS[name]()


def search(evaluate: TableLookup, sampler: str, seed: int, trials: int, keys: dict) -> tuple[list[list[float]], float]:
    """Returns [number, value, ...] for each feasible trial, and the mean seconds per trial."""
    config = evaluate.config
    config = replace(config, seed=seed, search=replace(config.search, trials=trials, sampler=open_sampler(sampler)))
    evaluate = replace(evaluate, config=config)
    storage = optuna.storages.InMemoryStorage()
    settings = config.search
    proposing = StudySampler(settings.sampler, evaluate.space, seed=seed, random_trials=settings.random_trials, keys=keys)
    study = optuna.create_study(storage=storage, sampler=proposing, directions=["minimize"] * len(config.objective.minimise))
    started, feasible, seen = time.perf_counter(), [], set()
    for event in Controller(study, storage, evaluate, Path()).trials():
        if isinstance(event, TrialFinished):
            assert event.trial.key not in seen, "two proposed architectures compute the same function"
            seen.add(event.trial.key)
            if event.trial.state == "complete" and event.trial.violation == 0:
                feasible.append([event.trial.number, *(event.trial.metrics[name] for name in config.objective.minimise)])
    return feasible, (time.perf_counter() - started) / trials


def progress(feasible: list[list[float]], trials: int, task: Task, worst: list[float]) -> np.ndarray:
    """Returns the best accuracy in percent, the best latency or the hypervolume after each trial, (trials,).

    The value is NaN before the first feasible trial.
    """
    reached = np.full(trials, np.nan)
    if not feasible:
        return reached
    numbers = np.array([row[0] for row in feasible], dtype=int)
    values = np.array([row[1:] for row in feasible])
    if values.shape[1] == 1:
        best = np.minimum.accumulate(values[:, 0])
        best = best if task.minimise[0] == "latency" else 100 * (1 - best)
    else:
        best = hypervolume_history(values / worst, [1.0] * values.shape[1])
    for place, number in enumerate(numbers):
        reached[number:] = best[place]
    return reached


def summarise(folder: Path, name: str, task: Task, rows: list[dict], worst: list[float], trials: int) -> str:
    """Draws the figure of a task and returns its table, in markdown."""
    curves = defaultdict(list)
    seconds = defaultdict(list)
    for row in rows:
        curves[row["sampler"]].append(progress(row["found"], row["trials"], task, worst)[:trials])
        seconds[row["sampler"]].append(row["seconds_per_trial"])
    marks = [mark for mark in MARKS if mark <= trials]
    latency, several = task.minimise[0] == "latency", len(task.minimise) > 1
    lines = [f"### {name}: {task.title}", ""]
    lines += ["| sampler | seeds | " + " | ".join(f"after {m}" for m in marks) + " | ms a trial |"]
    lines += ["| --- | --- | " + " | ".join("---" for _ in marks) + " | --- |"]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.0, 4.2)
        for colour, sampler in zip(COLOURS, curves, strict=False):
            table = np.array([curve for curve in curves[sampler] if len(curve) == trials])
            if not len(table):
                continue
            # Before its first feasible trial, a search has the worst value.
            table = np.nan_to_num(table, nan=np.inf if latency else 0.0)
            low, median, high = np.quantile(table, [0.25, 0.5, 0.75], axis=0, method="median_unbiased")
            shown = np.arange(1, trials + 1)
            axes.plot(shown, median, color=colour, label=sampler, linewidth=1.6)
            axes.fill_between(shown, low, high, color=colour, alpha=0.12, linewidth=0)
            digits = 4 if several else 1
            cells = [f"{median[m - 1]:.{digits}f} [{low[m - 1]:.{digits}f}, {high[m - 1]:.{digits}f}]" for m in marks]
            time_of = 1000 * float(np.median(seconds[sampler]))
            lines.append(f"| {sampler} | {len(table)} | " + " | ".join(cells) + f" | {time_of:.0f} |")
        reached = "hypervolume" if several else task.title.split(",")[0] + ("" if latency else ", %")
        axes.set(xlabel="trial", ylabel=reached, xlim=(1, trials))
        axes.set_title(f"{task.title}: medians and quartiles", fontsize=9)
        if not latency:
            settled = [line.get_ydata()[min(9, trials - 1)] for line in axes.get_lines()]
            axes.set_ylim(bottom=min(settled) if settled else None)
        axes.legend(loc="upper right" if latency else "lower right", fontsize=8, ncol=2)
        figure.savefig(folder / f"{name}.png", dpi=110)
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the searches, draws the figures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--samplers", nargs="+", default=[*SAMPLERS], help="names, or surrogate:START")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=250)
    options = parser.parse_args()
    torch.set_num_threads(1)
    silence_optuna()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "searches.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["task"], row["sampler"], row["seed"]) for row in rows if row["trials"] >= options.trials}
    keys: dict = {}
    tables = []
    for name in options.tasks:
        task, evaluate = TASKS[name], open_task(TASKS[name])
        for sampler in options.samplers:
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                if (name, sampler, seed) in done:
                    continue
                feasible, seconds = search(evaluate, sampler, seed, options.trials, keys)
                row = {"task": name, "sampler": sampler, "seed": seed, "trials": options.trials}
                row |= {"seconds_per_trial": round(seconds, 4), "found": feasible}
                rows.append(row)
                with file.open("a") as out:
                    out.write(json.dumps(row) + "\n")
            print(f"{name}: {sampler} done", flush=True)
        measured = [row for row in rows if row["task"] == name and row["trials"] >= options.trials]
        # The worst values are over all rows of the table, so that the hypervolumes of all searches have the same unit.
        largest = max(feasible["parameters"] for feasible in evaluate.counted.values())
        worst = [
            max(
                (value for (row,) in evaluate.rows.values() if (value := row.metrics.get(metric)) is not None),
                default=largest,
            )
            for metric in task.minimise
        ]
        tables.append(summarise(options.out, name, task, measured, worst, options.trials))
        print(tables[-1], flush=True)


if __name__ == "__main__":
    main()
