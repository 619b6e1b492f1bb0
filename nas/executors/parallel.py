"""Runs several jobs at once on this machine, each in a child process.

Each worker is a thread of the driver with a server of child processes. Only the driver's own thread pulls jobs, decides
about early stopping and uses the study.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, final

from nas.executors.base import Job, JobStarted, TrialResult
from nas.executors.isolated import ChildProcesses
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nas.executors.base import ExecutionContext, JobEvent

# Seconds between two attempts to end the workers.
END_SECONDS = 0.05


@final
@dataclass(frozen=True)
class StopQuestion:
    """Message of a worker: whether early stopping ends a job. The worker waits for the reply.

    Attributes:
        job: The job.
        epoch: Result of the epoch at the rung.
        reply: Queue for the answer.
    """

    job: Job
    epoch: EpochResult
    reply: SimpleQueue[bool]


Message = tuple[Job, "JobEvent"] | StopQuestion | BaseException


@final
class Worker:
    """A thread that runs jobs in sequence, each in a child process."""

    def __init__(self, name: str, children: ChildProcesses, context: ExecutionContext, outbox: SimpleQueue[Message]) -> None:
        self.name = name
        self._children, self._outbox = children, outbox
        self._context = replace(context, stop=self._ask)
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, job: Job) -> None:
        """Starts a job. The worker must be idle."""
        self._inbox.put(job)

    def end(self) -> None:
        """Kills the running job, if any, and waits for the end of the thread."""
        self._inbox.put(None)
        while self._thread.is_alive():
            self._children.kill()
            try:
                while True:
                    message = self._outbox.get_nowait()
                    if isinstance(message, StopQuestion):
                        message.reply.put(True)
            except Empty:
                self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while (job := self._inbox.get()) is not None:
            try:
                for event in self._children.run(job, self._context):
                    self._outbox.put((job, event))
            except BaseException as error:  # Raised again in the driver's thread.
                self._outbox.put(error)

    def _ask(self, job: Job, epoch: EpochResult) -> bool:
        """Returns the decision of the driver's thread about early stopping."""
        reply: SimpleQueue[bool] = SimpleQueue()
        self._outbox.put(StopQuestion(job, epoch, reply))
        return reply.get()


def run_in_parallel(jobs: Iterable[Job], context: ExecutionContext, workers: int) -> Iterator[tuple[Job, JobEvent]]:
    """Yields the events of jobs, of which several run at once. A job is pulled when a worker is idle.

    Args:
        jobs: The jobs.
        context: Functions and limits of the jobs. `isolate` has no effect: all jobs run in child processes.
        workers: Maximum number of jobs that run at once.

    Raises:
        CheckpointError: a checkpoint cannot be written.
        RunError: the search cannot be sent to another process.
    """
    jobs = iter(jobs)
    outbox: SimpleQueue[Message] = SimpleQueue()
    running: dict[int, Worker] = {}
    with ExitStack() as stack:
        idle: deque[Worker] = deque()
        for number in range(workers):
            children = stack.enter_context(ChildProcesses(context.evaluate))
            worker = Worker(f"local-{number + 1}", children, context, outbox)
            stack.callback(worker.end)
            idle.append(worker)
        while True:
            while idle and (job := next(jobs, None)) is not None:
                worker = running[job.number] = idle.popleft()
                worker.start(job)
                yield job, JobStarted(worker.name)
            if not running:
                return
            match outbox.get():
                case StopQuestion(job, epoch, reply):
                    reply.put(context.stop(job, epoch))
                case BaseException() as error:
                    raise error
                case (job, event):
                    if isinstance(event, TrialResult):
                        idle.append(running.pop(job.number))
                    yield job, event
