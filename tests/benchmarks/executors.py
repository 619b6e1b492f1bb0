"""Time that executors need per trial, and the speed-up from a second worker.

    python tests/benchmarks/executors.py [--trials 40] [--jobs 16] [--seconds 1.5]

There are two kinds of artificial jobs. One kind does nothing but report one epoch and a result. The other kind keeps one
core busy for a number of seconds of CPU time. The local executor runs both kinds, and so does Ray on this machine, with one
and with two workers. The clock starts at the first result after all workers have started a job. The time until the first
job starts is reported separately. Goals: under 0.3 s per trial that does nothing; with two workers on two cores, at least
1.7 times as many trials per minute as with one. Prints JSON.
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
    """Multiplies matrices in one thread, for a number of seconds of CPU time.

    Attributes:
        seconds: Seconds of CPU time; 0 to do nothing.
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
    """Returns the seconds until the first job starts, and the mean seconds per job.

    The mean is over `count` results, after the first result that comes when all workers have started a job.
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
    """Runs the measurements and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="number of jobs that do nothing")
    parser.add_argument("--jobs", type=int, default=16, help="number of jobs that keep a core busy")
    parser.add_argument("--seconds", type=float, default=1.5, help="CPU seconds of a job that keeps a core busy")
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
