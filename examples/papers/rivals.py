"""Trains and attacks the best network of a search and three rivals of about the same size.

The rivals are a residual network, the NASNet-A cell and the median random cell of the search. Their widths are chosen so
that their numbers of parameters are closest to that of the best network. All four are trained with the recipe and images of
the search, for more epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import children
import lab
import numpy as np
import torch
from safetensors.torch import load_file

import nas
from evaluators import APGD, FGSM, PGD, Square, Transfer, compare, error_at, holm, parameters, radii, worst_case
from evaluators.attacks import dlr, margin
from evaluators.curves.error_curves import binomial_interval
from nas.data import open_data, open_test
from nas.seeds import seed_of
from nas.spaces.config import SpaceConfig
from nas.spaces.options import open_space
from nas.study.finalists import Candidate, choose_finalists, choose_references
from nas.training.network import build_network
from nas.training.train import train
from search_spaces import PUBLISHED

if TYPE_CHECKING:
    from pathlib import Path

    from nas.config.schema import Config
    from nas.data import Dataset
    from nas.training.network import Normalised


@dataclass(frozen=True)
class AttackBudget:
    """Budget of training and attacks.

    Attributes:
        epochs: Number of training epochs.
        seeds: Number of networks of each architecture.
        images: Number of attacked test images.
        steps: Number of steps of PGD and APGD.
        queries: Number of queries of Square.
    """

    epochs: int
    seeds: int
    images: int
    steps: int
    queries: int


BUDGETS = {
    "smoke": AttackBudget(epochs=2, seeds=1, images=40, steps=5, queries=20),
    "default": AttackBudget(epochs=7, seeds=2, images=300, steps=10, queries=100),
    "full": AttackBudget(epochs=60, seeds=3, images=2000, steps=50, queries=5000),
}
# Multiples of the search's epsilon. Above 1, the attacks succeed on nearly all images. McNemar's tests use 1.
MULTIPLES = (0.5, 1.0)
NETWORK_NAMES = ("best", "residual", "NASNet-A", "random")
WHITE_BOX, BLACK_BOX = ("FGSM", "PGD, margin", "APGD, DLR"), ("Square", "transfer")
WORST_CASES = {"white box": WHITE_BOX, "black box": BLACK_BOX}


def choose_architectures(data: str, out: Path) -> dict[str, Candidate]:
    """Returns the best architecture by the search's adversarial error, and three rivals of about the same size."""
    run = nas.read_run(children.run_folder(data, out), trust=True)
    images = open_data(run.config.data)
    (best,) = choose_finalists(run.trials, run.config, 1)
    by_role = {c.role: c for c in choose_references(run.trials, run.config, images.input_shape, len(images.classes))}
    nasnet_a = replace(best, architecture=PUBLISHED["nasnet_a"].architecture)
    size = _parameters(best, images)
    candidates = (
        best,
        by_role["residual"],
        match_parameters(nasnet_a, size, images),
        match_parameters(by_role["random"], size, images),
    )
    return dict(zip(NETWORK_NAMES, candidates, strict=True))


def match_parameters(candidate: Candidate, size: int, images: Dataset) -> Candidate:
    """Returns the candidate with the number of channels at which its number of parameters over `size` is closest to 1."""
    options = candidate.space.options
    wider = (
        replace(candidate, space=replace(candidate.space, options={**options, "channels": channels}))
        for channels in range(1, 3 * options["channels"] + 1)
    )
    return min(wider, key=lambda other: abs(math.log(_parameters(other, images) / size)))


def _parameters(candidate: Candidate, images: Dataset) -> int:
    with torch.device("meta"):
        network = open_space(candidate.space, trust=True).build(
            candidate.architecture, images.input_shape, len(images.classes)
        )
        return parameters(network)


def _load_or_train(size: str, config: Config, candidate: Candidate, images: Dataset, seed: int, file: Path) -> Normalised:
    space, classes = open_space(candidate.space, trust=True), len(images.classes)
    network = build_network(space, candidate.architecture, images.train.x, classes, seed_of(seed, "weights"))
    if file.exists():
        network.load_state_dict(load_file(file, device=str(images.train.x.device)))
        return network.eval()
    epsilon, epochs = config.evaluation.epsilon, BUDGETS[size].epochs
    for _ in train(network, images, config.training, epsilon=epsilon, epochs=epochs, seed=seed):
        pass
    lab.save(network, file)
    return network


def train_transfer_source(size: str, data: str, out: Path) -> None:
    """Trains the source network of the transfer attack."""
    _transfer_source(size, nas.read_run(children.run_folder(data, out), trust=True).config, data, out)


def _transfer_source(size: str, config: Config, data: str, out: Path) -> Normalised:
    # The source is a cell of another search space, so that it is not similar to any compared network.
    options = {"channels": 2 * children.SEARCH_SCALES[size].channels, "cells_per_stage": 1, "stages": 2}
    source = Candidate("source", "random", SpaceConfig(name="cell201", options=options), lab.RESIDUAL_CELL, "", None)
    images = open_data(config.data).to(lab.device())
    return _load_or_train(size, config, source, images, 100, out / "networks" / f"{data}-source.safetensors")


def jobs(size: str, out: Path) -> list[tuple]:
    """Returns the arguments of all calls of `measure`."""
    chosen = {data: choose_architectures(data, out) for data in children.data_sets(size)}
    return [
        (size, data, name, candidate, seed, out)
        for data, candidates in chosen.items()
        for (name, candidate), seed in product(candidates.items(), range(BUDGETS[size].seeds))
    ]


def measure(size: str, data: str, name: str, candidate: Candidate, seed: int, out: Path) -> dict:
    """Returns the radii of one network under each attack."""
    file = out / "networks" / f"{data}-{name}-{seed}.json"
    return lab.cached_json(file, _measure, size, data, name, candidate, seed, out)


def _measure(size: str, data: str, name: str, candidate: Candidate, seed: int, out: Path) -> dict:
    config, budget = nas.read_run(children.run_folder(data, out), trust=True).config, BUDGETS[size]
    images = open_data(config.data).to(lab.device())
    test = open_test(config.data).first(budget.images).to(lab.device())
    file = out / "networks" / f"{data}-{name}-{seed}.safetensors"
    network = _load_or_train(size, config, candidate, images, seed_of(seed, name), file)
    strong = PGD(steps=budget.steps, loss=margin)
    attacks = {
        "FGSM": FGSM(),
        "PGD, margin": strong,
        "APGD, DLR": APGD(steps=budget.steps, loss=dlr),
        "Square": Square(queries=budget.queries),
        "transfer": Transfer(source=_transfer_source(size, config, data, out), attack=strong),
    }
    grid = [multiple * config.evaluation.epsilon for multiple in MULTIPLES]
    image_radii = {title: radii(network, test.x, test.y, attack, grid).tolist() for title, attack in attacks.items()}
    return {
        "data": data,
        "name": name,
        "seed": seed,
        "architecture": dict(candidate.architecture),
        "space": {"name": candidate.space.name, **candidate.space.options},
        "parameters": parameters(network),
        "epsilon": config.evaluation.epsilon,
        "epsilons": grid,
        # JSON has no infinity, so the radius is null if the attack does not succeed on the image.
        "radii": {title: [r if math.isfinite(r) else None for r in values] for title, values in image_radii.items()},
    }


def radii_by_attack(row: dict) -> dict[str, np.ndarray]:
    """Returns the radii (N,) of a network by attack, and the worst case of the white-box and of the black-box attacks."""
    by_attack = {title: np.array([math.inf if r is None else r for r in values]) for title, values in row["radii"].items()}
    return by_attack | {
        title: worst_case([by_attack[attack] for attack in attacks]) for title, attacks in WORST_CASES.items()
    }


def error_rates(row: dict) -> list[dict]:
    """Returns the errors of a network by attack and epsilon, with exact intervals. The clean error has epsilon 0."""
    points = [("clean", 0.0, radii_by_attack(row)["FGSM"])]
    points += [
        (title, epsilon, image_radii) for title, image_radii in radii_by_attack(row).items() for epsilon in row["epsilons"]
    ]
    return [
        {
            "attack": title,
            "epsilon": epsilon,
            "error": (error := error_at(image_radii, epsilon)),
            "interval": binomial_interval(np.array(round(error * len(image_radii))), len(image_radii)).tolist(),
            "images": len(image_radii),
        }
        for title, epsilon, image_radii in points
    ]


def mcnemar_tests(rows: list[dict]) -> list[dict]:
    """Returns exact McNemar tests of the best network against each rival at the search's epsilon, for each seed.

    Holm's correction has two families: the two worst cases, and the single attacks. Each includes all rivals and seeds.

    Args:
        rows: Networks of one data set, as `measure` returns them.
    """
    by_name = {(row["name"], row["seed"]): row for row in rows}
    best = {seed: radii_by_attack(row) for (name, seed), row in by_name.items() if name == "best"}
    results = []
    for attacks in (tuple(WORST_CASES), (*WHITE_BOX, *BLACK_BOX)):
        test_family = []
        for (rival, seed), attack in product([key for key in by_name if key[0] != "best"], attacks):
            row = by_name[rival, seed]
            test = compare(best[seed][attack], radii_by_attack(row)[attack], row["epsilon"])
            test_family.append(
                {
                    "rival": rival,
                    "seed": seed,
                    "attack": attack,
                    "difference": test.difference,
                    "interval": list(test.interval),
                    "p_value": test.p_value,
                }
            )
        corrected = holm([one["p_value"] for one in test_family])
        results += [{**one, "corrected": float(p)} for one, p in zip(test_family, corrected, strict=True)]
    return results
