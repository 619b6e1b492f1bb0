"""Results of candidates that work, are infeasible or fail, and a contract of executors."""

import sqlite3
import sys
from contextlib import suppress

import pytest
from optuna.trial import TrialState

from nas.errors import LimitError, RunError, SearchFailedError
from nas.executors import ExecutionContext, Executor, Job, JobStarted, Local, TrialResult
from nas.executors.output import LimitedOutput
from nas.pipeline.events import EpochFinished, FinalistsStarted, TrialFinished
from nas.pipeline.search import resume_events, search, search_events
from nas.runs.run import read_run
from nas.training.epoch import EpochResult

pytestmark = pytest.mark.usefixtures("no_surfaces")


@pytest.fixture
def searched(tmp_path, trials_only):
    """Runs a search up to the finalists; returns the run and the events."""

    def run(config):
        events = trials_only(tmp_path / "run", config)
        return read_run(tmp_path / "run"), events

    return run


def trained(events):
    return {int(event.name.removeprefix("trial ")) for event in events if isinstance(event, EpochFinished)}


def by_kind(run):
    trials = {}
    for trial in run.trials:
        trials.setdefault(trial.architecture["kind"], []).append(trial)
    return trials


def test_duplicates_are_answered_from_the_cache_without_training(custom_space, searched, stored):
    run, events = searched(custom_space("works", "search.trials=9", "search.random_trials=9"))
    first = {}
    for trial in run.trials:
        assert trial.state == "complete"
        if trial.key in first:
            assert trial.duplicate_of == first[trial.key].number
            assert trial.metrics == first[trial.key].metrics
            assert trial.number not in trained(events)
        else:
            first[trial.key] = trial
            assert trial.duplicate_of is None
            assert trial.number in trained(events)
    assert len(first) <= 4
    values = {trial.number: trial.values for trial in stored(run.folder.path)}
    assert all(values[trial.number] == values[first[trial.key].number] for trial in run.trials)


def test_every_trial_is_reported_once_and_in_order(custom_space, searched):
    _, events = searched(custom_space("raises,constant,works", "search.trials=9", "search.random_trials=9"))
    finished = [event for event in events if isinstance(event, TrialFinished)]
    assert [event.trial.number for event in finished] == list(range(9))
    best = [event.best for event in finished]
    known = []
    for event in finished:
        if event.trial.state == "complete":
            known.append(event.trial.metrics["adversarial_error"])
        assert (event.best is None) == (not known)
        if known:
            assert event.best.metrics["adversarial_error"] == min(known)
    assert best[-1] is not None


def test_too_many_parameters_are_rejected_before_training(custom_space, searched, stored):
    run, events = searched(
        custom_space("works", "search.trials=8", "search.random_trials=8", "objective.constraints={parameters: 400}")
    )
    infeasible = [trial for trial in run.trials if trial.state == "infeasible"]
    assert {trial.architecture["width"] for trial in infeasible} == {8, 16}
    for trial in infeasible:
        pixels, width, classes = 64, trial.architecture["width"], 10
        parameters = (pixels + 1) * width + (width + 1) * classes
        assert trial.reason == f"parameters {parameters:g} exceeds 400"
        assert trial.metrics["parameters"] == parameters
        assert trial.violation == pytest.approx((parameters - 400) / 400)
        assert trial.number not in trained(events)
        in_study = stored(run.folder.path)[trial.number]
        assert in_study.state == TrialState.PRUNED
        assert in_study.constraints["parameters"] > 0  # Optuna's samplers then treat the trial as infeasible.
    for trial in run.trials:
        if trial.state == "complete":
            assert stored(run.folder.path)[trial.number].constraints["parameters"] <= 0


def test_all_violated_bounds_are_named(custom_space, searched):
    run, _ = searched(
        custom_space(
            "works", "search.trials=8", "search.random_trials=8", "objective.constraints={parameters: 400, macs: 320}"
        )
    )
    widest = {trial.reason for trial in run.trials if trial.architecture["width"] == 16}
    assert widest == {"parameters 1210 exceeds 400; macs 1200 exceeds 320"}


def test_bound_on_the_clean_error_ranks_and_does_not_reject(custom_space, searched):
    run, events = searched(custom_space("works", "search.trials=2", "objective.constraints={clean_error: 0.0001}"))
    assert all(trial.state == "complete" and trial.violation > 0 for trial in run.trials)
    assert trained(events)


def test_disconnected_candidates_are_rejected_with_their_reason(custom_space, searched, stored):
    run, events = searched(custom_space("constant,works", "search.trials=6", "search.random_trials=6"))
    constant = by_kind(run)["constant"]
    assert constant
    for trial in constant:
        assert trial.state == "infeasible"
        assert "no path" in trial.reason
        assert trial.violation > 0
        assert trial.number not in trained(events)
        assert any(value > 0 for value in stored(run.folder.path)[trial.number].constraints.values())


def test_disconnected_cell_of_cell201_is_rejected(tiny, searched, monkeypatch):
    from search_spaces import SearchSpace

    monkeypatch.setattr(SearchSpace, "suggest", lambda space, trial: dict.fromkeys(space.choices, "none"))
    with pytest.raises(SearchFailedError, match="2 x no path"):
        searched(tiny("search.trials=2"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("raises", "RuntimeError: a broken layer"),
        ("raises in build", "RuntimeError: cannot be built"),
        ("raises in training", "RuntimeError: broken in training"),
        ("exits in training", "SystemExit: the candidate called sys.exit(3)"),
        ("exits in build", "SystemExit: the candidate called sys.exit(3)"),
        ("raises base in training", "BaseError: neither an error nor an exit"),
        ("raises base in build", "BaseError: neither an error nor an exit"),
        ("prints in training", "printed more than 1,000 lines or 200,000 characters"),
        ("prints in build", "printed more than 1,000 lines or 200,000 characters"),
        ("memory", "out of memory: 4 GiB wanted"),
        ("memory in build", "out of memory: 8 GiB wanted"),
        ("nan", "training diverged: the loss is nan in epoch 1 of 2"),
        (
            "last rounds",
            "the loss has no gradient for the weights; the network or the recipe may detach a tensor, use argmax or round, "
            "or compute without gradients",
        ),
    ],
)
def test_broken_candidate_is_a_failed_trial_with_its_reason_and_the_search_goes_on(
    kind, reason, custom_space, searched, stored
):
    run, _ = searched(custom_space(f"{kind},works", "search.trials=6", "search.random_trials=6"))
    trials = by_kind(run)
    assert trials[kind]
    assert all((trial.state, trial.reason) == ("failed", reason) for trial in trials[kind])
    assert all(trial.state == "complete" for trial in trials["works"])
    assert max(t.number for t in trials["works"]) > min(t.number for t in trials[kind])
    assert {stored(run.folder.path)[trial.number].state for trial in trials[kind]} == {TrialState.FAIL}
    assert len(run.trials) == 6


def test_flood_of_lines_does_not_reach_the_terminal(custom_space, searched, capsys):
    with pytest.raises(SearchFailedError, match="1 x printed more than 1,000 lines"):
        searched(custom_space("prints in training", "search.trials=1", "search.random_trials=1"))
    assert capsys.readouterr().out.splitlines() == [f"noise {number}" for number in range(10)]


def test_output_limit_holds_for_code_that_catches_every_error():
    output, before = LimitedOutput(), sys.stdout

    def stubborn():
        for number in range(2000):
            with suppress(BaseException):
                print(number, file=sys.stderr)

    with pytest.raises(LimitError, match="printed more than 1,000 lines"), output:
        stubborn()
    assert sys.stdout is before


def test_learning_rate_that_diverges_fails_with_its_reason(tiny, tmp_path):
    # No batch norm follows the last layer, so a large step on its weights overflows.
    config = tiny("training.learning_rate=100", "training.weight_decay=1", "training.epochs=12", "search.trials=2")
    with pytest.raises(SearchFailedError, match=r"training diverged: the loss is (nan|inf)") as caught:
        search(config, tmp_path / "run")
    assert caught.value.exit_code == 1


def test_collapse_of_the_training_is_the_reason(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.training.train.collapse_gap", lambda *arguments: 1.0)
    one_step = ("training.recipe=n_fgsm", "training.on_collapse=fail", "search.trials=1")
    with pytest.raises(
        SearchFailedError, match=r"1 x training with one gradient step collapsed in epoch 1 of 2: the network"
    ):
        search(tiny(*one_step), tmp_path / "run")


def test_failed_candidate_keeps_the_epochs_before_it_failed(custom_space, tmp_path, monkeypatch):
    import nas.evaluation.train_and_attack

    def fails(*args):
        raise RuntimeError("in the scoring")

    monkeypatch.setattr(nas.evaluation.train_and_attack, "validation_radii", fails)
    with pytest.raises(SearchFailedError):
        search(custom_space("works", "search.trials=1"), tmp_path / "run")
    (trial,) = read_run(tmp_path / "run").trials
    assert trial.reason == "RuntimeError: in the scoring"
    assert [epoch["epoch"] for epoch in trial.epochs] == [1, 2]
    assert trial.metrics["parameters"] > 0


def test_search_in_which_all_trials_fail_says_why(custom_space, tmp_path, cli):
    run = tmp_path / "run"
    with pytest.raises(SearchFailedError, match="none of the 4 trials is complete: ") as caught:
        search(custom_space("raises in training,nan", "search.trials=4"), run)
    assert caught.value.exit_code == 1
    assert "x RuntimeError: broken in training" in str(caught.value)
    code, _, err = cli("resume", run)
    assert code == 1
    assert "none of the 4 trials is complete" in err


@pytest.mark.parametrize("kind", ["raises", "raises in build", "memory in build"])
def test_space_of_which_nothing_can_be_built_is_an_error_without_a_traceback(kind, custom_space, tmp_path, cli):
    from nas.config.writer import dump_config

    config = tmp_path / "own.yaml"
    config.write_text(dump_config(custom_space(kind, "search.trials=2")))
    code, _, err = cli("search", config, "--run", tmp_path / "run")
    assert code in (1, 2)
    assert any(text in err for text in ("a broken layer", "cannot be built", "8 GiB wanted"))


def test_space_too_deep_for_the_images_is_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(RunError, match="images must be at least 16 x 16 pixels to be halved 4 times"):
        search_events(tiny("space.stages=5"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_objectives_end_to_end(custom_space, tmp_path, stored):
    config = custom_space(
        "works",
        "search.trials=6",
        "search.random_trials=3",
        "objective.minimise=[adversarial_error, parameters]",
    )
    run = search(config, tmp_path / "run")
    for trial, in_study in zip(run.trials, stored(run.folder.path), strict=True):
        assert in_study.values == [trial.metrics["adversarial_error"], trial.metrics["parameters"]]
    assert run.folder.report.exists()
    (bundle,) = run.bundles
    points = {t.key: (t.metrics["adversarial_error"], t.metrics["parameters"]) for t in run.trials}
    assert points[bundle.stored.key] == min(points.values())


def test_first_trials_are_drawn_at_random_and_are_marked(finished_run):
    assert [trial.random for trial in read_run(finished_run).trials] == [True, True, False, False, False, False]


def test_seed_decides_the_trials(custom_space, tmp_path, trials_only, study_content):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trials_only(tmp_path / name, custom_space("works", "search.trials=4", f"seed={seed}"))
    assert study_content(tmp_path / "a") == study_content(tmp_path / "b")
    assert study_content(tmp_path / "a") != study_content(tmp_path / "c")


def test_leaderboard_is_written_even_if_the_search_is_interrupted(tiny, tmp_path, break_off):
    break_off(search_events(tiny(), tmp_path / "run"), 1)
    lines = (tmp_path / "run" / "leaderboard.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [["number", "state"], ["0", "complete"], ["1", "running"]]


def test_locked_database_is_an_error_without_a_traceback(tiny, tmp_path, break_off, monkeypatch):
    run = tmp_path / "run"
    break_off(search_events(tiny("search.trials=2"), run), 1)
    holder = sqlite3.connect(run / "study.db")
    try:
        # Another connection keeps a write lock. SQLite's timeout is shortened, so that the test does not wait long.
        monkeypatch.setattr("sqlite3.dbapi2.connect", lambda *a, c=sqlite3.connect, **k: c(*a, **{**k, "timeout": 0.1}))
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RunError, match=r"study\.db: .*locked"):
            list(resume_events(run))
    finally:
        holder.close()


def never(job, epoch):
    raise AssertionError("no epoch is a rung")


class ExecutorContract:
    """Contract tests of executors. A subclass defines the fixture `executor`."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    @pytest.fixture
    def work(self, tmp_path):
        return lambda evaluate, **settings: ExecutionContext(evaluate, settings.pop("stop", never), tmp_path, **settings)

    @staticmethod
    def evaluate(job, checkpoint):
        for epoch in (1, 2):
            yield EpochResult(epoch, 2, 1.0 / epoch, None, None, 0.0)
        if job.seed == 13:
            return TrialResult(reason="unlucky")
        return TrialResult(metrics={"adversarial_error": job.seed / 100})

    @staticmethod
    def jobs(count, pulled=None):
        for number in range(count):
            if pulled is not None:
                pulled.append(number)
            yield Job(number, {"width": number}, {"width": number}, seed=10 + number)

    def test_yields_every_epoch_and_last_the_outcome_of_every_job(self, executor, work):
        news = list(executor.run(self.jobs(5), work(self.evaluate)))
        for number in range(5):
            mine = [n for job, n in news if job.number == number]
            assert [type(n) for n in mine] == [JobStarted, EpochResult, EpochResult, TrialResult]
            assert [n.epoch for n in mine[1:3]] == [1, 2]
            assert mine[3].reason == ("unlucky" if number == 3 else None)
        assert {job.number: job.architecture for job, _ in news} == {n: {"width": n} for n in range(5)}

    def test_no_jobs_no_news(self, executor, work):
        assert list(executor.run(iter(()), work(self.evaluate))) == []

    def test_pulls_no_job_before_the_first_event_is_requested(self, executor, work):
        pulled = []
        news = executor.run(self.jobs(5, pulled), work(self.evaluate))
        assert pulled == []
        next(news)
        assert len(pulled) < 5
        news.close()

    def test_earlier_results_are_yielded_before_later_jobs_are_pulled(self, executor, work):
        # In a search, the iterable of jobs calls the sampler, which uses all results so far.
        outcomes, known = [], []

        def jobs():
            for job in self.jobs(4):
                known.append(len(outcomes))
                yield job

        for _, news in executor.run(jobs(), work(self.evaluate)):
            if isinstance(news, TrialResult):
                outcomes.append(news)
        assert len(outcomes) == 4
        assert known == sorted(known)
        assert known[-1] > 0

    def test_closing_it_closes_the_training(self, executor, work):
        closed = []

        def evaluate(job, checkpoint):
            try:
                yield from self.evaluate(job, checkpoint)
            finally:
                closed.append(job.number)

        news = executor.run(self.jobs(3), work(evaluate))
        next(news)
        next(news)
        news.close()
        assert 0 in closed


class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return Local()

    def test_one_after_another(self, executor, work):
        pulled = []
        for job, news in executor.run(self.jobs(4, pulled), work(self.evaluate)):
            assert pulled == list(range(job.number + 1))
            assert isinstance(news, JobStarted | EpochResult | TrialResult)


def test_finalists_start_after_all_trials_are_reported(custom_space, tmp_path):
    events = search_events(custom_space("works", "search.trials=3"), tmp_path / "run")
    kinds = []
    for event in events:
        kinds.append(type(event))
        if isinstance(event, FinalistsStarted):
            events.close()
    assert kinds.count(TrialFinished) == 3
    assert kinds[-1] is FinalistsStarted
