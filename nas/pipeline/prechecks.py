"""Checks before a search that a network can be built and exported, and at a resume that the space has not changed."""

from __future__ import annotations

import math
import random
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self, final

from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from nas.bundle.export import failed_exports
from nas.bundle.export_formats import files_of
from nas.config.evaluators import TableEvaluatorConfig
from nas.errors import RunError, format_error
from nas.executors import ExecutionContext, Job, Local, Precheck, TrialResult
from nas.executors.isolated import ChildProcesses
from nas.executors.jobs import limit_message
from nas.executors.local import run_here_or_in_child
from nas.seeds import seed_of
from search_spaces import SPACES, SearchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from optuna.trial import FrozenTrial

    from nas.config.schema import Config
    from nas.evaluation.base import Evaluator
    from nas.evaluation.train_and_attack import TrainAndAttack
    from nas.executors import Evaluate, JobEvent
    from nas.executors.base import Steps
    from nas.training.checkpoints import Checkpoint
    from nas.training.epoch import EpochResult
    from search_spaces import Architecture

# Attribute of a trial: sum of the squared logits of its untrained network, as `Precheck.response`.
RESPONSE = "response"
# Number of earlier trials whose networks are built again at resume.
COMPARED = 3
# Largest relative difference between two responses of the same network. TOLERANCE allows for other devices and versions of
# torch. TOLERANCE_AGAIN is for a network that the same machine builds and runs again.
TOLERANCE = 0.02
TOLERANCE_AGAIN = 1e-5
# Smallest time limit of the export before the search, in seconds. An export takes longer than a trial of a small network.
EXPORT_SECONDS = 120.0


def context_of(
    config: Config, evaluate: Evaluate, folder: Path, stop: Callable[[Job, EpochResult], bool]
) -> ExecutionContext:
    """Returns the context of a search's jobs."""
    search = config.search
    return ExecutionContext(
        evaluate,
        stop,
        folder,
        checkpoint_seconds=search.checkpoint_seconds,
        time_limit=search.time_limit,
        attempts=search.attempts,
        threads=config.threads,
        isolate=search.isolate,
    )


def precheck_steps(
    evaluate: Evaluate, job: Job, checkpoint: Checkpoint
) -> Generator[Precheck | EpochResult, None, TrialResult]:
    """Evaluates a job up to its precheck."""
    with closing(evaluate(job, checkpoint)) as steps:
        try:
            yield next(steps)
        except StopIteration as stop:
            result: TrialResult = stop.value
            return result
    return TrialResult()


def export_steps(
    evaluate: TrainAndAttack, job: Job, checkpoint: Checkpoint
) -> Generator[Precheck | EpochResult, None, TrialResult]:
    """Exports the untrained network of a job in all formats of `finalists.forms`. The result has the reason of a failure."""
    yield from ()
    forms = evaluate.config.finalists.forms
    network = evaluate.build(job.architecture, job.seed)
    failed = failed_exports(network, evaluate.data.validation.x[:3].cpu(), files_of(forms))
    if not failed:
        return TrialResult()
    working = [form for form in forms if not set(files_of([form])) & failed.keys()]
    remedy = f"or set finalists.forms to [{', '.join(working)}]" if working else "so that its weights can be saved"
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    return TrialResult(reason=f"a network cannot be exported to {reasons}; change the network, {remedy}")


@final
class Prechecks:
    """Context manager for checks of candidates before the search.

    Candidates of a custom space run in child processes if trials run in other processes.
    """

    def __init__(self, evaluate: Evaluator) -> None:
        """Takes the evaluator of the search."""
        self._evaluate = evaluate
        config = evaluate.config
        executor = config.search.executor
        apart = config.search.isolate or not isinstance(executor, Local) or executor.workers > 1
        trains = not isinstance(config.evaluator, TableEvaluatorConfig)
        custom = config.space.name not in SPACES
        self._children = ChildProcesses(evaluate) if apart and trains and custom else None

    def __enter__(self) -> Self:
        if self._children is not None:
            self._children.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._children is not None:
            self._children.__exit__()

    def precheck(self, job: Job) -> Precheck | str:
        """Returns the properties of a candidate that need no training, or the reason why it cannot be built."""
        known: Precheck | str = ""
        # The loop runs to the end of the job. A `break` would end the process that the next job needs.
        for event in self._run(job, precheck_steps, self._evaluate.config.search.time_limit):
            if isinstance(event, Precheck):
                known = event
            elif isinstance(event, TrialResult) and event.reason is not None and not isinstance(known, Precheck):
                known = event.reason
        return known

    def first_buildable(self, first: Sequence[Architecture] = ()) -> Architecture:
        """Returns the first of some architectures that can be built for the run's images, in its canonical form.

        Args:
            first: Architectures to try first, of which at most 5 are tried. Then come the last value of every choice, and 9
                random architectures.

        Raises:
            RunError: none of the architectures can be built.
        """
        space, generator = self._evaluate.space, random.Random(0)
        last = {name: choice.values[-1] for name, choice in space.choices.items()}
        sampled = (space.sample(generator) for _ in range(9))
        reason = ""
        for architecture in chain(first[:5], [last], sampled):
            try:
                canonical = space.canonical(architecture)
            except Exception as error:  # A custom space may raise any error.
                reason = reason or f"its canonical form: {format_error(error)}"
                continue
            known = self.precheck(Job(number=-1, architecture=canonical, proposed=canonical, seed=0))
            if isinstance(known, Precheck):
                return canonical
            reason = reason or known.removeprefix("ValueError: ")
        raise RunError(f"space {space.name}: no network can be built: {reason}")

    def check_exportable(self, architecture: Architecture) -> None:
        """Checks before the search that a candidate can be exported in all formats of `finalists.forms`.

        Raises:
            RunError: the export to a format fails.
        """
        job = Job(number=-1, architecture=architecture, proposed=architecture, seed=0)
        limit = self._evaluate.config.search.time_limit
        if limit is not None:
            limit = max(limit, EXPORT_SECONDS)
        for event in self._run(job, export_steps, limit):
            if isinstance(event, TrialResult) and event.reason is not None:
                late = limit is not None and event.reason == limit_message(limit)
                reason = f"the export of a network took longer than {limit:g} s" if late else event.reason
                raise RunError(f"space {self._evaluate.space.name}: {reason}")

    def _run(self, job: Job, steps: Steps, limit: float | None) -> Iterator[JobEvent]:
        context = context_of(self._evaluate.config, self._evaluate, Path(), lambda job, epoch: False)
        return run_here_or_in_child(job, replace(context, steps=steps, time_limit=limit), self._children)


def check_same_space(space: SearchSpace, changes: Sequence[str]) -> None:
    """Checks that the space of a resumed run has not changed.

    Args:
        space: The space.
        changes: The changes, as from `changed_choices` and `changed_networks`.

    Raises:
        RunError: there are changes; the message lists them.
    """
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        raise RunError(
            f"space {space.name}: has changed since the run began, but all trials must come from one space:\n{listed}\n"
            "undo the changes, or start a new run; `search.first` can name this run, to begin with its best architectures"
        )


def changed_choices(trials: Sequence[FrozenTrial], space: SearchSpace) -> list[str]:
    """Returns the differences between the choices of earlier trials and those of the space."""
    # A trial that was interrupted may lack some choices.
    earlier = {
        name: distribution.choices
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, CategoricalDistribution)
    }
    whole = any(trial.state.is_finished() for trial in trials)
    current = {name: choice.values for name, choice in space.choices.items()}
    changes = [f"choice {name}: is new" for name in current if whole and name not in earlier]
    for name, values in earlier.items():
        if name not in current:
            changes.append(f"choice {name}: is missing")
            continue
        # Texts are compared, because 1, 1.0 and True are different values here but equal in Python.
        was, now = list(map(repr, values)), list(map(repr, current[name]))
        added, removed = [v for v in now if v not in was], [v for v in was if v not in now]
        parts = [f"added {', '.join(added)}"] if added else []
        parts += [f"removed {', '.join(removed)}"] if removed else []
        if parts or was != now:
            changes.append(f"choice {name}: {'; '.join(parts) or 'its values have another order'}")
    return changes


def changed_networks(trials: Sequence[FrozenTrial], evaluate: Evaluator, checks: Prechecks) -> list[str]:
    """Returns the differences between the networks of the first complete trials and those that the space builds now."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and "duplicate_of" not in t.user_attrs][:COMPARED]
    changes = [
        f"trial {trial.number}: its architecture has another canonical form"
        for trial in complete
        if evaluate.space.canonical(trial.user_attrs["architecture"]) != trial.user_attrs["architecture"]
    ]
    if changes or not complete:
        return changes
    seed = evaluate.config.seed
    jobs = [Job(t.number, t.user_attrs["architecture"], t.params, seed_of(seed, "trial", t.number)) for t in complete]
    # Each network is built twice. If its two responses differ, it is random, and its logits are not compared.
    known = [checks.precheck(job) for job in [*jobs, *jobs]]
    for trial, first, second in zip(complete, known[: len(jobs)], known[len(jobs) :], strict=True):
        if isinstance(first, str) or isinstance(second, str):
            changes.append(
                f"trial {trial.number}: its network cannot be built: {first if isinstance(first, str) else second}"
            )
            continue
        metrics = trial.user_attrs.get("metrics", {})
        counts = [
            f"trial {trial.number}: its network has {count:,.0f} {name}, and had {metrics[name]:,.0f}"
            for name, count in first.metrics.items()
            if name in metrics and count != metrics[name]
        ]
        random_network = not _same_response(first.response, second.response, TOLERANCE_AGAIN)
        if not counts and not random_network and not _same_response(trial.user_attrs.get(RESPONSE), first.response):
            counts.append(f"trial {trial.number}: its untrained network has other logits")
        changes += counts
    return changes


def _same_response(first: float | None, second: float | None, tolerance: float = TOLERANCE) -> bool:
    """Returns whether two responses may be of the same network; True if either is None, or the first is not finite."""
    return first is None or second is None or not math.isfinite(first) or math.isclose(first, second, rel_tol=tolerance)
