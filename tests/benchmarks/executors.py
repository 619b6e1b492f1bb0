"""What an executor costs a trial, and what a second worker brings.

    python tests/benchmarks/executors.py [--trials 40] [--jobs 16] [--seconds 1.5]

Two kinds of jobs, both made up: such as do nothing (one epoch, then an outcome), and such as keep one core busy for so many
seconds of its own time. Each is run by the local executor and by Ray on this machine with one and with two workers. Times
begin once all workers have had a job; the start itself is told apart. Goals: under 0.3 s a trial that does nothing; two
workers on two cores at least 1.7 times one. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.executors import ExecutionContext, Job, JobStarted, Local, Ray, TrialResult
from nas.training.epoch import EpochResult


@dataclass(frozen=True)
class Busy:
    """Multiplies matrices, in one thread, for so many seconds of this process's own time.

    Attributes:
        seconds: How long; 0 to do nothing.
    """

    seconds: float

    def __call__(self, job, checkpoint):
        """Yields one epoch."""
        torch.set_num_threads(1)
        begun, x = time.process_time(), torch.rand(64, 64)
        while time.process_time() - begun < self.seconds:
            x = (x @ x).clamp(0, 1)
        epoch = EpochResult(1, 1, loss=0.5, clean_error=0.5, adversarial_error=0.5, seconds=self.seconds)
        yield epoch
        return TrialResult({"clean_error": 0.5}, epochs=(epoch,))


def measure(executor, evaluate, count, workers):
    """Returns the seconds until the first job began, and those of each job after that.

    Jobs that began before all workers were there are not counted, nor is the time until then.
    """
    begun, ended, seen, first, counted = time.perf_counter(), [], set(), None, None
    jobs = (Job(number, {}, {}, number) for number in range(10_000))

    with tempfile.TemporaryDirectory() as folder:
        running = executor.run(jobs, ExecutionContext(evaluate, lambda job, epoch: False, Path(folder), threads=1))
        for _, news in running:
            now = time.perf_counter()
            if isinstance(news, JobStarted):
                first = first or now
                seen.add(news.worker)
            elif isinstance(news, TrialResult) and len(seen) == workers:
                counted = counted or now
                ended.append(now)
                if len(ended) > count:
                    break
        running.close()
    return first - begun, (ended[-1] - counted) / (len(ended) - 1)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="jobs that do nothing")
    parser.add_argument("--jobs", type=int, default=16, help="jobs that keep a core busy")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds of one of these")
    options = parser.parse_args()
    measurements: dict[str, dict[str, float]] = {}
    executors = {"local": (Local(), 1), "ray, 1 worker": (Ray(workers=1), 1), "ray, 2 workers": (Ray(workers=2), 2)}
    for name, (executor, workers) in executors.items():
        start, nothing = measure(executor, Busy(0.0), options.trials, workers)
        _, busy = measure(executor, Busy(options.seconds), options.jobs, workers)
        measurements[name] = {
            "start_seconds": round(start, 2),
            "seconds_a_trial_that_does_nothing": round(nothing, 4),
            "busy_trials_a_minute": round(60 / busy, 1),
        }
    one, two = (measurements[f"ray, {count}"]["busy_trials_a_minute"] for count in ("1 worker", "2 workers"))
    print(json.dumps({**measurements, "two_workers_over_one": round(two / one, 2)}, indent=2))


if __name__ == "__main__":
    main()
