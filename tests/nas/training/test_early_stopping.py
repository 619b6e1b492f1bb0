"""Early stopping: rungs, attack budgets, decisions, and a search with pruned trials."""

import csv
import math
import re
import shutil
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

import nas
from evaluators import FGSM, PGD
from nas.data import Dataset, Split
from nas.errors import ConfigError
from nas.pipeline.controller import rung_point
from nas.pipeline.events import EpochFinished, TrialFinished
from nas.pipeline.search import resume_events, search_events
from nas.runs.run import read_run
from nas.study.finalists import choose_finalists
from nas.study.ranking import ranked
from nas.training.config import TrainingConfig
from nas.training.early_stopping import FEWEST_IMAGES, AttackBudget, Halving
from nas.training.epoch import EpochMeasures, EpochResult
from nas.training.recipes import Standard
from nas.training.train import train


class TestRungs:
    @pytest.mark.parametrize(
        ("settings", "epochs", "rungs"),
        [
            ({}, 10, [2, 6]),
            ({}, 1, []),
            ({}, 2, [1]),
            ({}, 4, [1, 3]),
            ({"first": 1 / 81, "reduction": 3}, 81, [1, 3, 9, 27]),
            ({"first": 1}, 10, []),
            ({"first": 0.5, "reduction": 2}, 8, [4]),
            ({"reduction": 1.01}, 10, [2, 3, 4, 5, 6, 7, 8, 9]),
            ({"reduction": 1000}, 10, [2]),
            # 0.07 * 100 is 7.000000000000001 and 10 * 1.1 is 11.000000000000002. They must not round up to 8 and 12.
            ({"first": 0.07, "reduction": 100}, 100, [7]),
            ({"first": 0.5, "reduction": 1.1}, 20, [10, 11, 13, 15, 17, 19]),
        ],
        ids=str,
    )
    def test_closed_forms(self, settings, epochs, rungs):
        assert list(Halving(**settings).rungs(epochs)) == rungs

    @given(st.integers(1, 200), st.integers(1, 100), st.integers(11, 60))
    def test_exact_arithmetic_gives_the_same(self, epochs, first, reduction):
        wanted, reached = [], max(1, math.ceil(Fraction(epochs * first, 100)))
        while reached < epochs:
            wanted.append(reached)
            reached = max(reached + 1, math.ceil(Fraction(reached * reduction, 10)))
        assert list(Halving(first=first / 100, reduction=reduction / 10).rungs(epochs)) == wanted

    def test_attack_budget_grows_with_the_logarithm_of_the_epochs(self):
        # From 1 to 16 epochs there are four doublings. Each is a quarter of the way on the logarithmic scale.
        budgets = Halving(first=1 / 16, reduction=2, images=1 / 16, steps=1 / 81).rungs(16)
        assert {epoch: (e.images, e.steps) for epoch, e in budgets.items()} == {
            1: (1 / 16, 1 / 81),
            2: (pytest.approx(1 / 8), pytest.approx(1 / 27)),
            4: (pytest.approx(1 / 4), pytest.approx(1 / 9)),
            8: (pytest.approx(1 / 2), pytest.approx(1 / 3)),
        }

    @given(st.integers(2, 300), st.floats(0.01, 1), st.floats(1.01, 5), st.floats(0.01, 0.99))
    def test_attack_budget_begins_at_the_share_and_grows_towards_one(self, epochs, first, reduction, share):
        efforts = list(Halving(first=first, reduction=reduction, images=share, steps=share).rungs(epochs).values())
        shares = [effort.images for effort in efforts]
        assert shares == [effort.steps for effort in efforts] == sorted(set(shares))
        assert shares[:1] in ([], [share])
        assert all(share < 1 for share in shares)


class TestAttackBudget:
    @pytest.mark.parametrize(
        ("share", "images", "count"),
        [
            (1.0, 1000, 1000),
            (0.5, 1000, 500),
            (0.0001, 1000, FEWEST_IMAGES),
            (0.5, 40, 40),
            (0.1001, 1000, 101),
            (0.07, 1000, 70),
        ],
    )
    def test_images(self, share, images, count):
        assert AttackBudget(images=share).count(images) == count

    @pytest.mark.parametrize(("share", "steps"), [(1.0, 10), (0.5, 5), (0.41, 5), (0.001, 1), (0.07, 7)])
    def test_steps(self, share, steps):
        attack = PGD(steps=100 if share == 0.07 else 10, step_size=0.5)
        assert AttackBudget(steps=share).of(attack) == PGD(steps=steps, step_size=0.5)

    def test_attack_without_steps_stays(self):
        assert AttackBudget(steps=0.1).of(FGSM()) == FGSM()


def fronts(points):
    """Returns the number of the front of each point, from 0, by repeated removal of the non-dominated points."""
    ranks, left, rank = [0] * len(points), set(range(len(points))), 0

    def dominates(a, b):
        return all(x <= y for x, y in zip(points[a], points[b], strict=True)) and points[a] != points[b]

    while left:
        front = {i for i in left if not any(dominates(j, i) for j in left)}
        for i in front:
            ranks[i] = rank
        left, rank = left - front, rank + 1
    return ranks


class TestRule:
    @given(st.lists(st.integers(0, 6), max_size=14), st.integers(0, 6), st.integers(11, 50))
    def test_one_objective_goes_on_among_the_best_share(self, others, mine, tenths):
        places = max(1, math.floor(Fraction(10 * (len(others) + 1), tenths)))
        wanted = mine <= sorted([*others, mine])[places - 1]
        assert Halving(reduction=tenths / 10).should_continue([mine], [[other] for other in others]) == wanted

    @given(
        st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12), st.tuples(*[st.integers(0, 4)] * 3), st.integers(2, 4)
    )
    def test_several_objectives_go_by_fronts_and_then_by_the_first(self, others, mine, reduction):
        points = [*others, mine]
        order = sorted(zip(fronts(points), (point[0] for point in points), strict=True))
        place = order.index((fronts(points)[-1], mine[0]))
        wanted = place < max(1, len(points) // reduction)
        assert Halving(reduction=reduction).should_continue(mine, others) == wanted

    def test_first_to_arrive_goes_on(self):
        assert Halving().should_continue([0.9], [])

    def test_best_always_goes_on(self):
        assert Halving(reduction=1000).should_continue([0.1], [[0.2], [0.3]])
        assert not Halving(reduction=1000).should_continue([0.25], [[0.2], [0.3]])

    def test_of_three_one_goes_on_and_of_six_two(self):
        halving = Halving(reduction=3)
        assert not halving.should_continue([0.2], [[0.1], [0.3]])
        assert not halving.should_continue([0.2], [[0.1], [0.3], [0.4], [0.5]])
        assert halving.should_continue([0.2], [[0.1], [0.3], [0.4], [0.5], [0.6]])


@pytest.mark.parametrize(
    ("minimise", "point"),
    [
        (["adversarial_error"], [0.5]),
        (["clean_error"], [0.5, 0.2]),
        (["adversarial_error", "parameters"], [0.5, 7.0]),
        (["error_area", "macs", "clean_error"], [0.5, 9.0, 0.2]),
    ],
)
def test_rung_point_is_the_adversarial_error_and_the_available_objectives(minimise, point):
    epoch = EpochResult(1, 2, 1.0, 0.2, 0.5, 0.0, rung=True)
    assert rung_point(epoch, {"parameters": 7.0, "macs": 9.0}, minimise) == point


@pytest.mark.parametrize(
    ("stopping", "message"),
    [
        ({"first": 0}, "search.stopping is refused: first must be above 0 and at most 1, got 0"),
        ({"first": 1.5}, "search.stopping is refused: first must be above 0 and at most 1, got 1.5"),
        ({"images": 0}, "search.stopping is refused: images must be above 0 and at most 1, got 0"),
        ({"steps": 2}, "search.stopping is refused: steps must be above 0 and at most 1, got 2"),
        ({"reduction": 1}, "search.stopping is refused: reduction must be above 1 and at most 1000, got 1"),
        ({"frist": 1}, "unknown key search.stopping.frist; did you mean 'first'?"),
        ("halving", "search.stopping must be a mapping, got 'halving'"),
    ],
)
def test_invalid_settings_are_refused(stopping, message):
    with pytest.raises(ConfigError) as caught:
        nas.parse_config({"search": {"stopping": stopping}})
    assert caught.value.faults == (f"config: {message}",)


def test_no_stopping_by_default():
    assert nas.parse_config({}).search.stopping is None
    assert nas.parse_config({"search": {"stopping": {}}}).search.stopping == Halving()


def test_rungs_use_their_attack_budget_and_selectable_epochs_the_full_budget(monkeypatch):
    measured = []

    def radii(network, x, y, attack, epsilons, *, seed):
        measured.append((len(x), attack.steps))
        return torch.zeros(len(x))

    monkeypatch.setattr("nas.training.train.radii", radii)
    split = Split(torch.rand(200, 1, 2, 2), torch.arange(200) % 3, "")
    config = TrainingConfig(recipe=Standard(), selection=PGD(steps=8), selection_from=0.6, average=False)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    rungs = {1: AttackBudget(0.4, 0.25), 2: AttackBudget(0.5, 0.5), 4: AttackBudget(0.7, 0.75)}
    data = Dataset("toy", ("a", "b", "c"), split, split)
    epochs = list(train(network, data, config, epsilon=0.1, epochs=5, seed=0, measures=EpochMeasures(rungs)))
    assert measured == [(80, 2), (100, 4), (200, 8), (200, 8)]
    assert [(e.rung, e.adversarial_error is None) for e in epochs] == [
        (True, False), (True, False), (False, True), (True, False), (False, False)
    ]  # fmt: skip


STOPPED = (
    "search.stopping={first: 0.17, reduction: 2, images: 0.5}",
    "search.trials=7",
    "search.random_trials=5",
    "search.checkpoint_seconds=0",
    "training.epochs=6",
    "data.limit=300",
    "finalists.references=false",
)


@pytest.fixture(scope="module")
def halved(tiny, tmp_path_factory, trials_only):
    """The folder of a search with pruned trials."""
    folder = tmp_path_factory.mktemp("halved") / "run"
    trials_only(folder, tiny(*STOPPED))
    return folder


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory, trials_only):
    """The folder of a search with pruned trials and two objectives."""
    folder = tmp_path_factory.mktemp("both") / "run"
    trials_only(folder, tiny(*STOPPED, "objective.minimise=[adversarial_error, parameters]", "search.trials=5"))
    return folder


def test_every_decision_follows_the_rule_and_stopped_trials_are_pruned(halved, stored):
    run = read_run(halved)
    halving, reached = Halving(first=0.17, reduction=2, images=0.5), {}
    assert {trial.state for trial in run.trials} == {"complete", "pruned"}
    for trial, in_study in zip(run.trials, stored(halved), strict=True):
        for rung in trial.rungs:
            others = reached.setdefault(rung["epoch"], [])
            assert rung["promoted"] == halving.should_continue(rung["point"], others)
            others.append(rung["point"])
        pruned = trial.state == "pruned"
        assert [rung["promoted"] for rung in trial.rungs] == [True] * (len(trial.rungs) - pruned) + [False] * pruned
        epochs = [rung["epoch"] for rung in trial.rungs]
        assert epochs == [2, 4][: len(epochs)]
        assert [epoch["epoch"] for epoch in trial.epochs] == list(range(1, (epochs[-1] if pruned else 6) + 1))
        assert [rung["point"] for rung in trial.rungs] == [[trial.epochs[e - 1]["adversarial_error"]] for e in epochs]
        assert in_study.state == (TrialState.PRUNED if pruned else TrialState.COMPLETE)
        assert in_study.user_attrs["rungs"] == list(trial.rungs)
        assert in_study.intermediate_values == {rung["epoch"]: rung["point"][0] for rung in trial.rungs}
        if pruned:
            assert re.search(rf"\bepoch {epochs[-1]}\b", trial.reason)
            assert set(trial.metrics) == {"parameters", "macs"}


def test_pruned_trials_are_never_ranked(halved):
    run = read_run(halved)
    complete = [trial for trial in run.trials if trial.state == "complete"]
    assert 0 < len(complete) < len(run.trials)
    assert {t.number for t in ranked(run.trials, run.config.objective)} == {t.number for t in complete}
    assert {c.trial for c in choose_finalists(run.trials, run.config, 99)} == {t.number for t in complete}


def test_two_objectives_decide_by_both_and_report_no_intermediate_values(both, stored):
    run = read_run(both)
    assert {trial.state for trial in run.trials} == {"complete", "pruned"}
    for trial, in_study in zip(run.trials, stored(both), strict=True):
        assert in_study.intermediate_values == {}
        assert trial.rungs
        for rung in trial.rungs:
            epoch = trial.epochs[rung["epoch"] - 1]
            assert rung["point"][0] == epoch["adversarial_error"]
            assert rung["point"][-1] == trial.metrics["parameters"]


def test_leaderboard_and_report_show_the_rungs(halved, tmp_path, cli):
    run = shutil.copytree(halved, tmp_path / "run")
    code, _, err = cli("report", run)
    assert (code, err) == (0, "")
    rows = list(csv.DictReader((run / "leaderboard.csv").read_text().splitlines()))
    for row, trial in zip(rows, read_run(run).trials, strict=True):
        assert row["rungs"] == " ".join(str(rung["epoch"]) for rung in trial.rungs)
        assert row["state"] == trial.state
    page = (run / "report.html").read_text()
    assert "rungs of early stopping" in page
    pruned = sum(row["state"] == "pruned" for row in rows)
    assert f"<b>{pruned}</b>pruned" in page


def test_report_of_a_search_without_stopping_shows_none(custom_space, tmp_path, trials_only, cli):
    trials_only(tmp_path / "run", custom_space("works", "search.trials=1"))
    assert cli("report", tmp_path / "run")[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "rungs of early stopping" not in page
    assert "stopped early" not in page


@pytest.mark.slow
def test_broken_off_and_resumed_is_as_uninterrupted(halved, tiny, study_content, tmp_path, break_off, trials_only):
    run = tmp_path / "run"
    events = search_events(tiny(*STOPPED), run)
    for trial, epoch in ((0, 3), (1, 2), (2, 1), (4, 2)):
        break_off(events, trial, epoch)
        events = resume_events(run)
    events.close()
    trials_only(run)
    assert study_content(run) == study_content(halved)


@pytest.mark.parametrize("seconds", [0, 1000], ids=["from a checkpoint", "anew"])
def test_rung_is_decided_once(seconds, halved, tiny, study_content, stored, tmp_path, break_off, monkeypatch):
    # The trial is interrupted after the decision. The stored decision is then used, and the rule is not applied again.
    number = next(t.number for t in read_run(halved).trials if t.state == "pruned")
    run = tmp_path / "run"
    events = search_events(tiny(*STOPPED, f"search.trials={number + 1}", f"search.checkpoint_seconds={seconds}"), run)
    break_off(events, number, read_run(halved).trials[number].rungs[-1]["epoch"])
    assert stored(run)[number].state == TrialState.RUNNING
    assert stored(run)[number].user_attrs["rungs"][-1]["promoted"] is False
    monkeypatch.setattr(Halving, "should_continue", lambda *args: 1 / 0)
    events = resume_events(run)
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, TrialFinished):
            events.close()
    assert study_content(run)[number] == study_content(halved)[number]
    assert [e.result.epoch for e in seen if isinstance(e, EpochFinished)] == list(
        range(1, read_run(halved).trials[number].rungs[-1]["epoch"] + 1)
    )
