"""Trials per minute with the default config, and the share of the time outside forward and backward passes.

    python tests/benchmarks/trials.py [--trials 12] [--threads 1]

Runs the random sampler on digits through the whole controller: sampling, prechecks, training, attacks, the study. The
passes are timed inside the same run: the network's forward and its loss, `backward` and `torch.autograd.grad`. One trial
runs before without timing, because torch loads many modules in the first trial. Goal: less than 10 % of the time of the
trials is outside the passes. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from nas import Config
from nas.pipeline.controller import Controller
from nas.pipeline.prepare import prepare
from nas.samplers import Random
from nas.study.storage import StudyLocation, close_storage, open_storage
from nas.study.study import create_study
from nas.study.trial import read_trials


@contextmanager
def timed_passes():
    """Yields a dict with the seconds that forward and backward passes take inside the context."""
    spent, running = {"forward": 0.0, "backward": 0.0}, []

    def timed(name, function):
        def call(*args, **kwargs):
            if running:  # A layer of a network. Its time is part of the network's time.
                return function(*args, **kwargs)
            running.append(name)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - started
                running.pop()

        return call

    with (
        # This covers networks and their folded copies, which attacks use.
        mock.patch.object(nn.Module, "__call__", timed("forward", nn.Module.__call__)),
        mock.patch.object(F, "cross_entropy", timed("forward", F.cross_entropy)),
        mock.patch.object(torch.Tensor, "backward", timed("backward", torch.Tensor.backward)),
        mock.patch.object(torch.autograd, "grad", timed("backward", torch.autograd.grad)),
    ):
        yield spent


def measure(config: Config) -> dict[str, float]:
    """Runs a search and returns its trials per minute, and shares of its time."""
    evaluate = prepare(config)
    with tempfile.TemporaryDirectory() as folder:
        place = StudyLocation(Path(folder, "study.db"))
        storage = open_storage(place, write=True)
        study = create_study(storage, place, config, evaluate.space)
        started = time.perf_counter()
        with timed_passes() as spent:
            for _ in Controller(study, storage, evaluate, Path(folder)).trials():
                pass
        seconds = time.perf_counter() - started
        trials = read_trials(study)
        close_storage(storage)
        trained = [t for t in trials if t.state == "complete" and t.duplicate_of is None]
    in_trials = sum(trial.seconds for trial in trained)
    passes = spent["forward"] + spent["backward"]
    return {
        "trained_trials": len(trained),
        "seconds": round(seconds, 2),
        "trials_per_minute": round(60 * len(trained) / seconds, 1),
        "share_forward": round(spent["forward"] / seconds, 3),
        "share_backward": round(spent["backward"] / seconds, 3),
        "share_outside_passes": round(1 - passes / seconds, 3),
        "share_outside_training_and_scoring": round(1 - in_trials / seconds, 3),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Runs the measurement and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    base = Config(threads=options.threads)
    config = replace(
        base,
        search=replace(base.search, trials=options.trials, sampler=Random()),
        training=replace(base.training, epochs=options.epochs),
    )
    measure(replace(config, search=replace(config.search, trials=1)))
    print(json.dumps(measure(config), indent=2))


if __name__ == "__main__":
    main()
