"""The controller: asks the sampler, hands work to the executor, tells the study."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import TYPE_CHECKING, final

import optuna
from optuna.trial import TrialState

from nas.errors import RunError, SearchFailedError
from nas.evaluate import reason_of
from nas.events import EpochFinished, TrialFinished
from nas.executors import EpochResult, Job
from nas.metrics import CHEAP_METRICS
from nas.seeds import seed_of
from nas.study import (
    NAME,
    Trial,
    ranked,
    read_trial,
    read_trials,
    set_constraint,
    set_constraints,
    tell_failed,
    tell_outcome,
    tell_rejected,
    tell_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nas.config import Config
    from nas.evaluate import TrainAndAttack
    from nas.executors import Outcome


@final
class Controller:
    """One pass over the trials that a study still lacks."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.BaseStorage, evaluate: TrainAndAttack) -> None:
        self._study, self._storage, self._evaluate = study, storage, evaluate
        self._config: Config = evaluate.config
        self._open: dict[int, tuple[optuna.Trial, dict[str, float]]] = {}
        # Trials that this pass has started, and how often each was started before.
        self._started: dict[int, tuple[optuna.Trial, int]] = {}
        # Trials that ended without the executor (duplicates, rejections), not yet yielded.
        self._ended: deque[int] = deque()
        self._complete = {t.key: t for t in reversed(read_trials(study)) if t.state == "complete"}

    def trials(self) -> Iterator[EpochFinished | TrialFinished]:
        """Yields what happens until the study holds all its trials."""
        try:
            for job, news in self._config.search.executor.run(self._jobs(), self._evaluate):
                yield from self._announce()
                if isinstance(news, EpochResult):
                    yield EpochFinished(f"trial {job.number}", news)
                    continue
                self._tell(job, news)
                yield self._finished(job.number)
            yield from self._announce()
        except (KeyboardInterrupt, GeneratorExit):
            self._uncount()
            raise

    def _jobs(self) -> Iterator[Job]:
        """Yields the jobs that need the executor: first the trials in which the process was killed, then new ones."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            yield from self._job(self._reopened(trial.number), earlier=read_trial(trial).attempts)
        while len(self._study.get_trials(deepcopy=False)) < self._config.search.trials:
            yield from self._job(self._study.ask(), earlier=0)

    def _reopened(self, number: int) -> optuna.Trial:
        """Returns a trial that an earlier process left running, under its own number."""
        study_id = self._storage.get_study_id_from_name(NAME)
        return optuna.Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _uncount(self) -> None:
        """Takes the attempts of the trials in hand back: the user broke them off, so they may be started again as often."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for number in self._started.keys() & {trial.number for trial in running}:
            trial, earlier = self._started[number]
            trial.set_user_attr("attempts", earlier)

    def _job(self, trial: optuna.Trial, earlier: int) -> Iterator[Job]:
        """Yields the job of a trial that was started some times earlier, unless it ends before any training."""
        self._started[trial.number] = trial, earlier
        space, objective, search = self._evaluate.space, self._config.objective, self._config.search
        architecture = space.canonical(space.suggest(trial))
        key = space.key(architecture)
        attributes = {
            "key": key,
            "architecture": architecture,
            "attempts": earlier + 1,
            "random": 0 <= trial.number - len(search.first) < search.random_trials,
        }
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        if earlier > self._config.search.attempts:
            tell_failed(self._study, trial, f"the process was killed in it {earlier} times")
            self._ended.append(trial.number)
            return
        if key in self._complete:
            first = self._complete[key]
            trial.set_user_attr("metrics", dict(first.metrics))
            trial.set_user_attr("duplicate_of", first.number)
            tell_values(self._study, trial, objective, first.metrics)
            self._ended.append(trial.number)
            return
        job = Job(trial.number, architecture, seed_of(self._config.seed, "trial", trial.number))
        try:
            known = self._evaluate.precheck(job)
        except Exception as error:  # The candidate's layers may raise anything; that is its result.
            tell_failed(self._study, trial, reason_of(error))
            self._ended.append(trial.number)
            return
        faults = [
            f"{name} {known.metrics[name]:g} exceeds {bound:g}"
            for name, bound in objective.constraints.items()
            if name in CHEAP_METRICS and known.metrics[name] > bound
        ]
        if known.constant:
            faults.append("no path leads from the image to the logits")
            set_constraint(trial, "path", 1.0)
        if faults:
            trial.set_user_attr("metrics", known.metrics)
            set_constraints(trial, objective, known.metrics)
            tell_rejected(self._study, trial, "; ".join(faults))
            self._ended.append(trial.number)
            return
        self._open[trial.number] = trial, known.metrics
        yield job

    def _tell(self, job: Job, outcome: Outcome) -> None:
        trial, known = self._open.pop(job.number)
        tell_outcome(self._study, trial, self._config.objective, known, outcome)

    def _announce(self) -> Iterator[TrialFinished]:
        while self._ended:
            yield self._finished(self._ended.popleft())

    def _finished(self, number: int) -> TrialFinished:
        trial = read_trial(self._study.get_trials(deepcopy=False)[number])
        if trial.state == "complete":
            self._complete.setdefault(trial.key, trial)
        best = ranked(list(self._complete.values()), self._config.objective)
        return TrialFinished(trial, best[0] if best else None, self._config.objective)


def check_some_complete(trials: list[Trial]) -> None:
    """Raises if no trial is complete, saying why they are not.

    Raises:
        SearchFailedError: with the commonest reasons.
    """
    if any(trial.state == "complete" for trial in trials):
        return
    reasons = Counter(trial.reason or trial.state for trial in trials).most_common(3)
    listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    raise SearchFailedError(f"none of the {len(trials)} trials is complete: {listed}")


def check_space(evaluate: TrainAndAttack) -> None:
    """Builds some architectures of the space for the run's images, to find before any work what no candidate can survive.

    Raises:
        RunError: none of them can be built for images of this size.
    """
    space, generator = evaluate.space, random.Random(0)
    last = {name: choice.values[-1] for name, choice in space.choices.items()}
    reason = ""
    for architecture in [last, *(space.sample(generator) for _ in range(9))]:
        try:
            evaluate.precheck(Job(number=-1, architecture=space.canonical(architecture), seed=0))
            return
        except Exception as error:  # A user's own space may raise anything.
            reason = reason or (str(error) if isinstance(error, ValueError) else reason_of(error))
    raise RunError(f"space {space.name}: no network can be built: {reason}")
