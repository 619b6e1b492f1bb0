"""Progress display of a run: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nas.cli.tables import format_metric
from nas.config.metrics import CHEAP_METRICS
from nas.pipeline.events import (
    BundleDamaged,
    BundleFailed,
    BundleFinished,
    EpochFinished,
    FinalistsLacking,
    FinalistsStarted,
    RunFinished,
    RunStarted,
    StageStarted,
    TrialFinished,
    TrialStarted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nas.config.schema import ObjectiveConfig
    from nas.pipeline.events import Event
    from nas.study.trial import Trial


def show(events: Iterator[Event], console: Console | None = None) -> None:
    """Consumes the events of a run and prints a permanent line for most of them. A terminal also has a live view."""
    # Keeps the current sys.stdout: while a trial runs, sys.stdout is replaced by a stream that limits the trial's output.
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    with _live(console) as view:
        for event in events:
            line = _line(event)
            if line is not None:
                console.print(line, markup=False)
            if view is not None:
                view.update(event)


@contextmanager
def _live(console: Console) -> Iterator[_View | None]:
    if not console.is_terminal:
        yield None
        return
    view = _View()
    with Live(view.group, console=console, refresh_per_second=8, transient=True):
        yield view


def _line(event: Event) -> str | None:
    """Returns the permanent line of an event; None for an event without one."""
    match event:
        case RunStarted():
            seen = f", {event.finished} finished already" if event.finished else ""
            return (
                f"run {event.folder}\n{event.trials} trials{seen}, a space of {event.space_size:,} architectures, "
                f"{event.source}"
            )
        case TrialFinished():
            best = f"; best {_score(event.best, event.objective)}" if event.best else ""
            return f"trial {event.trial.number:>3}  {_outcome(event.trial, event.objective)}{best}"
        case FinalistsLacking():
            requested, available = event.requested, event.available
            return f"the best {requested} architectures were requested, but the run has {available}: exporting those"
        case FinalistsStarted():
            done = f", {event.finished} of them already exported" if event.finished else ""
            return f"retraining, profiling and exporting {len(event.names)} networks{done}"
        case BundleFinished():
            return (
                f"{event.name}: clean error {event.clean_error:.3f}, adversarial error {event.adversarial_error:.3f} "
                f"on the test split; {event.folder}"
            )
        case BundleDamaged():
            return (
                f"warning: bundle {event.folder} is damaged: {event.reason}; delete the folder, and `resume` makes the "
                "bundle again"
            )
        case BundleFailed():
            return f"{event.name}: no bundle: {event.reason}"
        case RunFinished():
            return "\n".join([*event.verdicts, f"report: {event.report}"])
        case TrialStarted() | EpochFinished() | StageStarted():
            return None


def _score(trial: Trial, objective: ObjectiveConfig) -> str:
    """Returns the first objective of a trial as text, with the trial's number."""
    metric = objective.minimise[0]
    mark = "" if trial.violation == 0 else " (outside the constraints)"
    return f"{format_metric(metric, trial.metrics[metric])}{mark} in trial {trial.number}"


def _outcome(trial: Trial, objective: ObjectiveConfig) -> str:
    if trial.state != "complete":
        return f"{trial.state}: {trial.reason}"
    names = dict.fromkeys([*objective.minimise, *objective.constraints])
    text = _metrics_text(trial.metrics, names)
    mark = " (outside the constraints)" if trial.violation > 0 else ""
    if trial.duplicate_of is not None:
        return f"{text}{mark}, the same as trial {trial.duplicate_of}"
    size = (
        ""
        if "parameters" in names or "parameters" not in trial.metrics
        else f", {_metrics_text(trial.metrics, ['parameters'])}"
    )
    return f"{text}{mark}{size}, {trial.seconds:.1f} s"


def _metrics_text(metrics: Mapping[str, float], names: Iterable[str]) -> str:
    """Returns metrics as text: 'adversarial error 0.190, clean 0.018, 13,458 parameters'. 'error' appears only once."""
    words = [
        f"{format_metric(name, metrics[name])} {name}"
        if name in CHEAP_METRICS
        else f"{_label(name)} {format_metric(name, metrics[name])}"
        for name in names
    ]
    before, error, after = ", ".join(words).partition(" error")
    return before + error + after.replace(" error", "")


def _label(metric: str) -> str:
    return metric.replace("_", " ")


@final
class _View:
    """The live view: total progress, speed, running trials and their workers, the best trial so far, failures."""

    def __init__(self) -> None:
        self._whole = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[speed]}"),
        )
        self._training = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")
        )
        self._best, self._counts = Text("best so far: none yet"), Text("")
        self._task = self._whole.add_task("trials", total=None, speed="")
        # Progress line of each running trial or bundle, by name.
        self._lines: dict[str, TaskID] = {}
        self._ended = dict.fromkeys(("infeasible", "pruned", "failed"), 0)
        self._last, self._since, self._seen = "", time.monotonic(), 0
        self.group = Group(self._whole, self._training, self._best, self._counts)

    def update(self, event: Event) -> None:
        """Updates the view with one event."""
        match event:
            case RunStarted():
                self._whole.reset(self._task, total=event.trials, completed=event.finished)
            case TrialStarted():
                self._line(f"trial {event.number}", f"on {event.worker}" if event.worker != "local" else "")
            case EpochFinished():
                result = event.result
                numbers = {"loss": result.loss, "adversarial error": result.adversarial_error}
                text = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if value is not None)
                line = self._line(event.name, text)
                self._training.update(line, completed=result.epoch, total=result.epochs, text=text)
            case TrialFinished():
                self._drop(f"trial {event.trial.number}")
                self._trial(event)
            case FinalistsStarted():
                self._whole.reset(
                    self._task, total=len(event.names), completed=event.finished, description="bundles", speed=""
                )
            case StageStarted():
                self._training.update(self._line(event.name, event.stage), text=event.stage)
            case BundleFinished() | BundleFailed():
                self._drop(event.name)
                self._whole.advance(self._task)
            case FinalistsLacking() | RunFinished():
                pass

    def _trial(self, event: TrialFinished) -> None:
        """Updates speed, best trial and counts after the end of a trial."""
        self._seen += 1
        minutes = (time.monotonic() - self._since) / 60
        self._whole.update(self._task, advance=1, speed=f"{self._seen / minutes:.1f} trials a minute" if minutes else "")
        if event.best:
            score = f"{_label(event.objective.minimise[0])} {_score(event.best, event.objective)}"
            self._best.plain = f"best so far: {score}, architecture {event.best.key}"
        if event.trial.state in self._ended:
            self._ended[event.trial.state] += 1
        if event.trial.state == "failed":
            self._last = f"; last: {event.trial.reason}"
        self._counts.plain = ", ".join(f"{count} {state}" for state, count in self._ended.items()) + self._last

    def _line(self, name: str, text: str) -> TaskID:
        """Returns the progress line of a running trial or bundle; adds it if it does not exist."""
        if name not in self._lines:
            self._lines[name] = self._training.add_task(name, total=None, text=text)
        return self._lines[name]

    def _drop(self, name: str) -> None:
        if name in self._lines:
            self._training.remove_task(self._lines.pop(name))
