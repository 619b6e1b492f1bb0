"""Trial loop of a search: sampler, executor and study."""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, final

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from nas.errors import RunError, SearchFailedError
from nas.executors import Job, JobStarted, Precheck
from nas.pipeline.events import EpochFinished, TrialFinished, TrialStarted
from nas.pipeline.prechecks import RESPONSE, context_of
from nas.samplers.study_sampler import KEY, PROPOSED
from nas.seeds import seed_of
from nas.study.ranking import sort_key
from nas.study.study import SESSION, tell_failed, tell_outcome, tell_values
from nas.study.trial import Trial, read_rungs, read_trial, read_trials
from nas.training.checkpoints import trial_file
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from nas.config.schema import Config
    from nas.evaluation.base import Evaluator
    from nas.executors import TrialResult


@final
class Controller:
    """Runs the trials that a study still lacks.

    The controller requests an architecture from the sampler, passes it to the executor, and writes the result to the study.
    It calls `after_trial` after each trial. Before it handles an event, it calls `check`, which raises RunError if another
    process runs the study.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.BaseStorage,
        evaluate: Evaluator,
        folder: Path,
        after_trial: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._study, self._storage, self._evaluate, self._folder = study, storage, evaluate, folder
        self._after_trial, self._check = after_trial, check
        self._config: Config = evaluate.config
        # Trials that the executor has not finished, and the prechecks received for them, by trial number.
        self._open: dict[int, optuna.Trial] = {}
        self._known: dict[int, Precheck] = {}
        # Trials that this controller has started, with the number of earlier attempts.
        self._started: dict[int, tuple[optuna.Trial, int]] = {}
        # Trials that ended without the executor and are not yet yielded: duplicates, and trials whose worker died too often.
        self._without_training: deque[Trial] = deque()
        trials = read_trials(study)
        self._count = len(trials)
        self._complete = {t.key: t for t in reversed(trials) if t.state == "complete"}
        self._best = min(self._complete.values(), key=lambda t: sort_key(t, self._config.objective), default=None)
        # A rung is an epoch at which early stopping compares trials. These are the compared values (`rung_point`), by epoch
        # of the rung and trial number.
        self._rungs: dict[int, dict[int, Sequence[float]]] = {}
        for trial in trials:
            for rung in trial.rungs:
                self._rungs.setdefault(rung["epoch"], {})[trial.number] = rung["point"]

    def trials(self) -> Iterator[TrialStarted | EpochFinished | TrialFinished]:
        """Yields the events of the remaining trials until the study has all trials."""
        search = self._config.search
        context = context_of(self._config, self._evaluate, self._folder, self._stop)
        try:
            if self._count >= search.trials and not self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                return  # Do not start an executor without trials to run.
            self._study.set_user_attr(SESSION, time.time())
            for job, event in search.executor.run(self._jobs(), context):
                self._check()
                yield from self._ended_without_training()
                match event:
                    case JobStarted():
                        self._open[job.number].set_user_attr("worker", event.worker)
                        yield TrialStarted(job.number, event.worker)
                    case Precheck():
                        self._checked(job, event)
                    case EpochResult():
                        yield EpochFinished(f"trial {job.number}", event)
                    case _:
                        yield self._finished(self._finish(job, event))
            yield from self._ended_without_training()
        except (KeyboardInterrupt, GeneratorExit, RunError):
            # No candidate caused the interruption, so it does not count as an attempt.
            with suppress(SQLAlchemyError, RunError):
                self._check()  # Raises RunError if another process runs the study now. Then nothing is restored.
                self._restore_attempts()
            raise

    def _jobs(self) -> Iterator[Job]:
        """Yields the jobs for the executor. Trials that an earlier process left running come before new trials."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            # The earlier worker no longer exists.
            self._reopened(trial.number).set_user_attr("worker", "")
        for trial in running:
            yield from self._job(self._reopened(trial.number), earlier=read_trial(trial).attempts)
        while self._count < self._config.search.trials:
            self._count += 1
            yield from self._job(self._study.ask(), earlier=0)

    def _reopened(self, number: int) -> optuna.Trial:
        """Returns a trial that an earlier process left running, with its original number."""
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return optuna.Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _restore_attempts(self) -> None:
        """Resets the attempts of running trials to the earlier numbers; an interruption does not count as an attempt."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for number in self._started.keys() & {trial.number for trial in running}:
            trial, earlier = self._started[number]
            trial.set_user_attr("attempts", earlier)

    def _job(self, trial: optuna.Trial, earlier: int) -> Iterator[Job]:
        """Yields the job of a trial; yields nothing if the trial ends without training.

        Args:
            trial: The trial.
            earlier: Number of earlier attempts.
        """
        self._started[trial.number] = trial, earlier
        space, objective, search = self._evaluate.space, self._config.objective, self._config.search
        if PROPOSED not in trial.user_attrs:
            # The proposal is written first, in one step. `suggest` writes it choice by choice, and the process may die
            # between two choices.
            trial.set_user_attr(PROPOSED, trial.relative_params)
        proposed = space.suggest(trial)
        architecture = space.canonical(proposed)
        key = space.key(architecture)
        attributes = {
            KEY: key,
            "architecture": architecture,
            "attempts": earlier + 1 if earlier <= search.attempts else earlier,
            "random": 0 <= trial.number - len(search.first) < search.random_trials,
        }
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        if earlier > search.attempts:
            self._without_training.append(tell_failed(self._study, trial, f"the worker process died {earlier} times"))
            return
        if key in self._complete:
            first = self._complete[key]
            trial.set_user_attr("metrics", dict(first.metrics))
            trial.set_user_attr("duplicate_of", first.number)
            self._without_training.append(tell_values(self._study, trial, objective, first.metrics))
            return
        self._open[trial.number] = trial
        yield Job(trial.number, architecture, proposed, seed_of(self._config.seed, "trial", trial.number))

    def _checked(self, job: Job, known: Precheck) -> None:
        self._known[job.number] = known
        if known.response is not None:
            self._open[job.number].set_user_attr(RESPONSE, known.response)

    def _stop(self, job: Job, epoch: EpochResult) -> bool:
        """Applies early stopping to a trial at a rung, records the decision in the study, and returns whether to stop."""
        trial, known = self._open[job.number], self._known[job.number].metrics
        stopping = self._config.search.stopping
        assert stopping is not None
        earlier = read_rungs(trial.user_attrs)
        for rung in earlier:  # A trial that resumes from a checkpoint reports passed rungs again.
            if rung["epoch"] == epoch.epoch:
                return not rung["promoted"]
        point = rung_point(epoch, known, self._config.objective.minimise)
        others = self._rungs.setdefault(epoch.epoch, {})
        promoted = stopping.should_continue(point, [other for number, other in others.items() if number != job.number])
        others[job.number] = point
        # Optuna accepts intermediate values for one objective only. If an earlier process died between `report` and
        # `set_user_attr`, the value of this epoch is already in the study.
        reported = self._study.get_trials(deepcopy=False)[job.number].intermediate_values
        if len(self._config.objective.minimise) == 1 and epoch.epoch not in reported:
            trial.report(point[0], epoch.epoch)
        trial.set_user_attr("rungs", [*earlier, {"epoch": epoch.epoch, "point": point, "promoted": promoted}])
        return not promoted

    def _finish(self, job: Job, outcome: TrialResult) -> Trial:
        trial, known = self._open.pop(job.number), self._known.pop(job.number, None)
        finished = tell_outcome(self._study, trial, self._config.objective, known, outcome)
        trial_file(self._folder, job.number).unlink(missing_ok=True)
        return finished

    def _ended_without_training(self) -> Iterator[TrialFinished]:
        while self._without_training:
            yield self._finished(self._without_training.popleft())

    def _finished(self, trial: Trial) -> TrialFinished:
        self._after_trial()
        objective = self._config.objective
        if trial.state == "complete":
            self._complete.setdefault(trial.key, trial)
            self._best = min(self._best or trial, trial, key=lambda t: sort_key(t, objective))
        return TrialFinished(trial, self._best, objective)


def rung_point(epoch: EpochResult, known: Mapping[str, float], minimise: Sequence[str]) -> list[float]:
    """Returns the values that early stopping compares: adversarial error, then the objectives known at the rung.

    Args:
        epoch: Result of the rung's epoch, with the adversarial error. A table may lack the clean error.
        known: Metrics known before training, by name.
        minimise: Names of the objectives.
    """
    assert epoch.adversarial_error is not None
    at_rung = dict(known) if epoch.clean_error is None else {**known, "clean_error": epoch.clean_error}
    return [epoch.adversarial_error, *(at_rung[name] for name in minimise if name in at_rung)]


def check_some_complete(trials: list[Trial]) -> None:
    """Checks that at least one trial is complete.

    Raises:
        SearchFailedError: no trial is complete; the message lists the most frequent reasons.
    """
    if any(trial.state == "complete" for trial in trials):
        return
    reasons = Counter(trial.reason or trial.state for trial in trials).most_common(3)
    listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    raise SearchFailedError(f"none of the {len(trials)} trials is complete: {listed}")
