"""The search on a table of measured networks: computations on a synthetic table, and a small run on the real table."""

import importlib
import json
import math
import os
import random
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from evaluators import check_table, parameters
from evaluators.table import read_table

SCRIPTS = Path(__file__).parents[2] / "examples" / "papers"
EPSILONS = (0.1, 0.5, 1.0, 2.0)
PICTURES = ("correlations", "progress", "cells")


@pytest.fixture(scope="module")
def scripts():
    """Returns the script and the module that reads the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in ("measured", "table_search")})
    for name in ("measured", "table_search", "lab", "cells"):
        sys.modules.pop(name, None)


def accuracies(architecture):
    """Synthetic accuracies in percent: convolutions raise clean accuracy, average pooling raises accuracy under PGD."""
    convolutions, averages = ([*architecture.values()].count(name) for name in ("conv3x3", "avgpool3x3"))
    clean = min(60 + 10 * convolutions, 99)
    # Skips change only the clean accuracy. So cells with equal accuracies under attack may differ in clean accuracy.
    percentages = {"val_acc": clean + 0.01 * [*architecture.values()].count("skip")}
    for epsilon in EPSILONS:
        percentages |= {f"fgsm_{epsilon}": clean - 20 * epsilon, f"square_{epsilon}": clean - 10 * epsilon}
        percentages[f"pgd_{epsilon}"] = 50 + 5 * averages - convolutions - 10 * epsilon
    return dict.fromkeys(percentages, 10.0) if set(architecture.values()) == {"none"} else percentages


@pytest.fixture(scope="module")
def table(scripts, tmp_path_factory):
    """A synthetic table of all cells."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    rows = [{**cell, **accuracies(cell)} for cell in scripts.measured.SPACE.enumerate()]
    path.write_text("\n".join(",".join(map(str, line)) for line in (rows[0], *(row.values() for row in rows))))
    return path


@pytest.fixture(scope="module")
def all_cells(scripts, table):
    return scripts.measured.read_cells(scripts.measured.open_evaluator(table, "alone")[0])


def handmade(scripts, operations=None, network=None, **numbers):
    """Returns Cells with the clean accuracies `clean`. All accuracies under attack are `pgd`."""
    clean, reward = (np.array(numbers[name], dtype=float) for name in ("clean", "pgd"))
    every = dict.fromkeys((*scripts.measured.MEASURES, scripts.measured.CLEAN_PROXY), reward)
    sizes = {name: np.array(numbers.get(name, np.arange(len(clean)))) for name in ("parameters", "depth")}
    network = np.arange(len(clean)) if network is None else np.array(network)
    return scripts.measured.Cells({"clean accuracy": clean, **every, **sizes}, operations, network)


def test_edges_on_no_path_from_input_to_output_become_none(scripts):
    paths = (("edge03",), ("edge01", "edge13"), ("edge02", "edge23"), ("edge01", "edge12", "edge23"))
    for cell in scripts.measured.SPACE.enumerate():
        on = {edge for path in paths if all(cell[edge] != "none" for edge in path) for edge in path}
        assert scripts.measured.prune_dead_edges(cell) == {
            edge: name if edge in on else "none" for edge, name in cell.items()
        }


def test_read_cells_have_the_numbers_of_the_table(scripts, all_cells):
    space, cells = scripts.measured.SPACE, random.Random(0).sample(range(15_625), 12)
    for cell in cells:
        architecture, expected = space.at(cell), accuracies(space.at(cell))
        assert all_cells.numbers["clean accuracy"][cell] == pytest.approx(expected["val_acc"] / 100)
        for attack, epsilon in product(("fgsm", "pgd", "square"), EPSILONS):
            assert all_cells.numbers[f"{attack}@{epsilon:g}"][cell] == pytest.approx(expected[f"{attack}_{epsilon}"] / 100)
        alive = scripts.measured.prune_dead_edges(architecture)
        assert [scripts.measured.OPERATIONS[place] for place in all_cells.operations[cell]] == [*alive.values()]
        assert all_cells.numbers["parameters"][cell] == parameters(space.build(alive, (3, 32, 32), 10))
    residual = space.index(scripts.table_search.RESIDUAL)
    assert all_cells.numbers["depth"][[0, residual, 15_624]].tolist() == [0, 2, 3]
    # Cells have the same network number exactly if all their accuracies under attack are equal.
    attacked = {tuple(accuracies(cell).values())[1:] for cell in space.enumerate()}
    assert len(np.unique(all_cells.network)) == len(attacked)
    same = np.flatnonzero(all_cells.network == all_cells.network[residual])
    assert {accuracies(space.at(int(cell)))["pgd_1.0"] for cell in same} == {50 - 2 - 10}


def test_the_residual_cell_adds_two_convolutions_to_its_input(scripts):
    graph = scripts.measured.SPACE.graphs(scripts.table_search.RESIDUAL)[""]
    assert graph.paths() == {(0, "skip"), (0, "conv3x3", "conv3x3", "skip")}


def test_rank_correlations_are_those_of_scipy(scripts):
    x, y = np.random.default_rng(0).integers(6, size=(2, 200))
    assert scripts.measured.spearman(x, x + y) == pytest.approx(spearmanr(x, x + y).statistic, abs=1e-4)
    assert scripts.measured.spearman(x, -np.exp(x)) == -1
    assert scripts.measured.spearman(x, np.ones(200)) is None


def test_cells_at_chance_are_left_out_and_networks_count_once(scripts):
    cells = handmade(scripts, clean=[0.1, 0.95, 0.8, 0.91, 0.5], pgd=[0.1, 0.4, 0.4, 0.4, 0.3], network=[0, 2, 2, 2, 1])
    rows = scripts.measured.populations(cells)
    assert {name: values["clean accuracy"].tolist() for name, values in rows.items()} == {
        "networks": [0.5, 0.91],
        "cells": [0.95, 0.8, 0.91, 0.5],
        "networks, clean accuracy at least 0.9": [0.91],
        "cells, clean accuracy at least 0.9": [0.95, 0.91],
    }
    assert rows["networks"]["network"].tolist() == [1, 2]
    assert rows["networks"]["parameters"].tolist() == [4, 2]


def test_correlations_of_accuracy_and_of_the_share_kept(scripts):
    clean = np.array([0.3, 0.5, 0.7, 0.9])
    rows = handmade(scripts, clean=clean, pgd=clean**2, parameters=[4, 3, 2, 1], depth=[1, 1, 1, 1]).numbers
    correlations = scripts.measured.correlations(rows)
    assert correlations["count"] == 4
    assert correlations["accuracy"]["fgsm@2"] == {"clean accuracy": 1, "parameters": -1, "depth": None}
    assert correlations["kept"]["pgd@1"] == 1
    # All accuracies under attack are equal here, so their share of the accuracy under square@0.1 is constant.
    assert correlations["kept_of_nearest"]["pgd@1"] is None
    assert scripts.measured.correlations({**rows, "pgd@1": np.sqrt(clean)})["kept"]["pgd@1"] == -1
    assert scripts.measured.correlations({**rows, "square@0.1": clean**3})["kept_of_nearest"]["pgd@1"] == -1


def test_deviations_within_groups(scripts):
    values = np.array([1.0, 3.0, 10.0, 14.0, 7.0])
    deviation = scripts.measured.within_group_deviation(values, np.array([5, 5, 2, 2, 9]))
    # The squared deviations sum to 1 + 1 + 4 + 4. Two groups of two values have two degrees of freedom.
    assert deviation == {"groups": 2, "within": round(math.sqrt(5), 4), "all": round(float(np.std(values, ddof=1)), 4)}
    assert math.isnan(scripts.measured.within_group_deviation(values, np.arange(5))["within"])


def test_two_trainings_of_one_function_are_compared(scripts, monkeypatch):
    monkeypatch.setattr(scripts.measured, "SPACE", SimpleNamespace(at=lambda cell: cell, key=lambda cell: str(cell > 3)))
    monkeypatch.setattr(scripts.measured, "prune_dead_edges", lambda cell: cell)
    clean, pgd = [0.1, 0.3, 0.8, 0.9, 0.7, 0.9], [0.1, 0.5, 0.2, 0.2, 0.6, 0.6]
    cells = handmade(scripts, clean=clean, pgd=pgd, network=[0, 3, 1, 1, 2, 2], parameters=[1, 2, 3, 3, 4, 5])
    description = scripts.measured.describe_table(cells, scripts.measured.populations(cells)["networks"])
    assert {key: value for key, value in description.items() if key != "deviations"} == {
        "cells": 6,
        "at_chance": 1,
        "networks": 3,
        "functions": 2,
        "networks_of_several_sizes": 1,
        "cells_where_attacked_beats_clean": 1,
    }
    # Networks 3 and 1 compute the same function; their PGD accuracies differ by 0.3. The two cells of network 1 differ by
    # 0.1 in clean accuracy, and those of network 2 by 0.2.
    assert description["deviations"]["pgd@1"]["within"] == pytest.approx(0.3 / math.sqrt(2), abs=1e-4)
    assert description["deviations"]["clean accuracy"]["within"] == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 4), abs=1e-4)


@pytest.fixture(scope="module")
def proposed(scripts, table, tmp_path_factory):
    """Returns the cells that two searches of 64 trials propose (seeds 0 and 1), by task and sampler."""
    folder = tmp_path_factory.mktemp("searches")
    jobs = product(scripts.measured.TASKS, scripts.table_search.SAMPLER_NAMES)
    return {job: np.array([scripts.table_search.search(table, folder, *job, seed, 64) for seed in (0, 1)]) for job in jobs}


def test_searches_start_alike_and_never_propose_one_function_twice(scripts, table, proposed, tmp_path):
    space = scripts.measured.SPACE
    for task in scripts.measured.TASKS:
        ppo, drawn = (proposed[task, sampler] for sampler in ("ppo", "random"))
        assert (ppo[:, :8] == drawn[:, :8]).all()
        assert (ppo != drawn).any(1).all()
        assert (ppo[0] != ppo[1]).any()
        assert len({space.key(space.at(int(cell))) for cell in ppo[0]}) == 64
    assert (
        scripts.table_search.search(table, tmp_path, "bounded", "ppo", 1, 20) == proposed["bounded", "ppo"][1, :20].tolist()
    )


def test_the_controller_learns_from_the_reward_and_the_bound(scripts, all_cells, proposed):
    late = {job: cells[:, 40:].ravel() for job, cells in proposed.items()}
    for task, name in (("alone", "pgd@1"), ("bounded", "clean accuracy")):
        values = all_cells.numbers[name]
        assert values[late[task, "ppo"]].mean() > values[late[task, "random"]].mean() + 0.03
    # Only the bound requires a high clean accuracy. The reward alone does not.
    fits = scripts.table_search.feasible(all_cells, "bounded")
    assert fits.sum() == sum(accuracies(cell)["val_acc"] >= 90 for cell in scripts.measured.SPACE.enumerate())
    assert fits[late["bounded", "ppo"]].mean() > 0.5 > fits[late["alone", "ppo"]].mean()
    assert scripts.table_search.feasible(all_cells, "alone").all()


def test_best_so_far_and_what_is_picked(scripts):
    cells = handmade(scripts, clean=[0.95, 0.5, 0.9, 0.95, 0.3], pgd=[0.2, 0.9, 0.4, 0.4, 0.8])
    proposed = np.array([[1, 0, 2, 3], [4, 1, 4, 1]])
    curves, picks = scripts.table_search.best_so_far(cells, "bounded", proposed)
    assert curves.tolist() == [[0, 0.2, 0.4, 0.4], [0, 0, 0, 0]]
    assert picks.tolist() == [2, -1]
    curves, picks = scripts.table_search.best_so_far(cells, "alone", proposed)
    assert curves.tolist() == [[0.9] * 4, [0.8, 0.9, 0.9, 0.9]]
    assert picks.tolist() == [1, 1]


def test_reference_cells_are_those_of_a_loop_over_all_cells(scripts, all_cells):
    space = scripts.measured.SPACE
    cells = [(accuracies(cell)["pgd_1.0"], accuracies(cell)["val_acc"]) for cell in space.enumerate()]
    for task, chosen in (("alone", cells), ("bounded", [cell for cell in cells if cell[1] >= 90])):
        known = scripts.table_search.references(all_cells, task)
        assert known["residual cell"]["pgd@1"] == pytest.approx(0.38)
        assert space.at(known["residual cell"]["cell"]) == scripts.table_search.RESIDUAL
        assert known["highest clean accuracy"]["clean accuracy"] == pytest.approx(max(cell[1] for cell in cells) / 100)
        assert known["best of the space"]["pgd@1"] == pytest.approx(max(chosen)[0] / 100)
        assert known["best of the space"]["cell"] == cells.index(max(chosen, key=lambda cell: cell[0]))
        assert known["median random cell"]["pgd@1"] == pytest.approx(np.median([cell[0] for cell in chosen]) / 100)
        assert known["median random cell"]["clean accuracy"] == pytest.approx(np.median([c[1] for c in chosen]) / 100)


def test_cells_of_the_size_of_a_pick(scripts):
    sizes = [100, 91, 109, 111, 200]
    cells = handmade(scripts, clean=[0.9, 0.9, 0.5, 0.9, 0.9], pgd=[0.1, 0.3, 0.8, 0.9, 0.7], parameters=sizes)
    of = scripts.table_search.size_matched_medians
    assert of(cells, "alone", np.array([0, 4, -1]), "pgd@1").tolist() == pytest.approx([0.3, 0.7, 0])
    assert of(cells, "bounded", np.array([0]), "pgd@1").tolist() == pytest.approx([0.2])


def test_samplers_are_compared_by_seed(scripts, all_cells):
    by_reward = np.argsort(all_cells.numbers["pgd@1"], kind="stable")
    values = all_cells.numbers["pgd@1"]
    # The reward of PPO's pick rises from seed to seed. The pick of random search is the same and worse for every seed.
    steps = [by_reward[np.searchsorted(values[by_reward], level)] for level in (0.40, 0.45, 0.5, 0.55, 0.6, 0.65)]
    low = np.repeat(by_reward[np.searchsorted(values[by_reward], 0.35)], 6)
    picks = {("alone", "ppo"): np.array(steps), ("alone", "random"): low}
    picks |= {("bounded", sampler): np.array([steps[0], -1, -1, -1, -1, -1]) for sampler in ("ppo", "random")}
    rows = {(row["task"], row["number"]): row for row in scripts.table_search.compare(all_cells, picks)}
    one = rows["alone", "pgd@1"]
    assert (one["better_seeds"], one["worse_seeds"], one["seen"]) == (6, 0, True)
    assert one["ppo"] == pytest.approx(np.quantile(values[steps], [0.25, 0.5, 0.75]), abs=1e-4)
    assert one["gain"] == pytest.approx(np.median(values[steps]) - values[low[0]], abs=1e-4)
    # Of 64 sign patterns, only all plus and all minus are as extreme. Holm multiplies the smallest of 20 p-values by 20.
    assert (one["p_value"], one["corrected"]) == (pytest.approx(2 / 64), pytest.approx(20 * 2 / 64))
    better = [int((values[steps] > bound).sum()) for bound in (0.38, max(values))]
    assert one["against"]["residual cell"] == [0.38, better[0], int((values[steps] < 0.38).sum())]
    assert one["against"]["best of the space"][1:] == [better[1], int((values[steps] < max(values)).sum())]
    assert set(one["against"]) == {*scripts.table_search.references(all_cells, "alone"), scripts.table_search.SIZE_MATCHED}
    nothing = rows["bounded", "pgd@1"]
    assert (nothing["p_value"], nothing["ppo"], nothing["better_seeds"]) == (1, [0, 0, 0], 0)


def test_operations_of_the_most_robust_networks(scripts):
    none, skip, average, _, convolution = range(5)
    operations = np.full((201, 6), skip)
    operations[0], operations[1], operations[2] = average, convolution, none
    # There are 101 networks. The most robust one has the first two cells, the second one has only the third cell.
    network = [7, 7, *(100 + (np.arange(199) + 1) // 2)]
    pgd = [0.9, 0.9, *(0.5 - 0.001 * ((np.arange(199) + 1) // 2))]
    cells = handmade(scripts, operations, np.unique(network, return_inverse=True)[1], clean=[0.9] * 201, pgd=pgd)
    rows = scripts.measured.populations(cells)["networks"]
    made = scripts.measured.operation_shares(cells, rows)
    assert [one["networks"] for one in made.values()] == [101, 11, 2]
    best = np.array(made["most robust hundredth"]["edges"])
    assert best.tolist() == [[0.5, 0, 0.25, 0, 0.25]] * 6
    assert np.array(made["all"]["edges"]).sum(1) == pytest.approx(1, abs=1e-3)
    assert made["all"]["edges"][0][average] == pytest.approx(0.5 / 101, abs=1e-4)
    assert made["most robust hundredth"]["medians"]["pgd@1"] == pytest.approx(0.7)


def test_words_for_what_is_better_and_worse(scripts):
    rows = [{"number": name, "seen": name == "pgd@1"} for name in ("clean accuracy", "pgd@1", "fgsm@0.5")]
    text = scripts.table_search.format_comparison(rows, [-1, 1, 1])
    better, worse = text.split("; ")
    assert better.startswith("better")
    assert worse.startswith("worse")
    assert ("PGD at 1/255 *" in better, "FGSM at 0.5/255" in better, "clean accuracy" in better) == (True, True, False)
    assert ("PGD" in worse, "FGSM" in worse, "clean accuracy" in worse) == (False, False, True)


def test_a_missing_table_is_an_error(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scripts.table_search, "TABLE", tmp_path / "nasbench201-robustness.csv.gz")
    monkeypatch.setattr("sys.argv", ["table_search.py", "--smoke", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        scripts.table_search.main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "nasbench201-robustness.csv.gz") in message
    assert "HARDCELL_DATA" in message


@pytest.mark.slow
def test_the_smallest_run_on_the_real_table(tmp_path, shared_data):
    if not (shared_data / "nasbench201-robustness.csv.gz").exists():
        pytest.skip(f"no nasbench201-robustness.csv.gz at {shared_data}; set HARDCELL_DATA to the data folder")
    out = tmp_path / "table_search"
    command = [sys.executable, SCRIPTS / "table_search.py", "--smoke", "--workers", "1", "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HARDCELL_DATA": str(shared_data)}

    def start():
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = start()
    assert all((out / f"table_search_{name}.png").read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    text = (out / "table_search.json").read_text(encoding="utf-8")
    assert len(text) < 100_000
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    # Values computed from the table independently of this script.
    accuracy = results["correlations"]["networks"]["accuracy"]
    assert accuracy["fgsm@1"]["clean accuracy"] == pytest.approx(0.77, abs=0.01)
    assert accuracy["pgd@1"]["clean accuracy"] == pytest.approx(0.14, abs=0.01)
    assert results["references"]["alone"]["best of the space"]["pgd@1"] == 0.588
    assert results["references"]["bounded"]["best of the space"]["pgd@1"] == 0.516
    failed = [
        check.name for check in check_table(read_table(shared_data / "nasbench201-robustness.csv.gz")) if not check.passed
    ]
    assert "one_step_never_beats_many" in failed
    assert len(results["failed_checks"]) == len(failed)
    kept = sorted((out / "searches").iterdir())
    before = {file: file.stat().st_mtime_ns for file in kept}
    kept[0].unlink()
    assert start().splitlines()[1:] == printed.splitlines()[1:]  # The first line contains the time.
    assert json.loads((out / "table_search.json").read_text(encoding="utf-8")) == results
    assert all(file.stat().st_mtime_ns == before[file] for file in kept[1:])
