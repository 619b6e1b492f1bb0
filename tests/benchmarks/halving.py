"""Compares early stopping with full training of every trial: architectures per minute, and the error of the best one.

For each seed, both searches try the same random architectures. With early stopping, there are twice as many trials. The best
architecture of each search is retrained like a finalist, and attacked on the test split as in the search. Goal: at least
twice as many architectures per minute, at an equal or lower adversarial error, over 5 seeds, on digits and on MNIST (from
../shared/data or the folder in HARDCELL_DATA). Minutes are of CPU time, because other processes may use the machine.

    python tests/benchmarks/halving.py [--data digits mnist] [--seeds 5] [--trials 20] [--stopping '{first: 0.2}']

Prints a line for each search, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from nas import Config
from nas.data import open_test
from nas.data.config import DataConfig
from nas.evaluation.train_and_attack import TrainAndAttack, validation_radii
from nas.pipeline.controller import Controller
from nas.pipeline.prepare import prepare
from nas.samplers import SAMPLERS
from nas.seeds import seed_of
from nas.study.finalists import choose_finalists
from nas.study.ranking import ranked
from nas.study.storage import StudyLocation, close_storage, open_storage
from nas.study.study import create_study
from nas.study.trial import read_trials
from nas.training.early_stopping import Halving
from nas.training.network import build_network
from nas.training.recipes import Adversarial
from nas.training.train import train

MNIST_EPSILON = 0.05
SHARED = Path(os.environ.get("HARDCELL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def configure(data: str, seed: int, trials: int, sampler: str) -> Config:
    """Returns the config of a search without early stopping: the default on digits, and a variant for 2,000 MNIST images."""
    base = Config(threads=1, seed=seed)
    config = replace(base, search=replace(base.search, trials=trials, sampler=SAMPLERS[sampler]()))
    if data == "digits":
        return config
    files = {"name": data, "path": mnist_folder(), "limit": 2000}
    return replace(
        config,
        data=DataConfig(**files),
        # With so few images, ten epochs are enough only with small batches and a small epsilon.
        training=replace(config.training, batch_size=32, learning_rate=0.1, recipe=Adversarial(epsilon=MNIST_EPSILON)),
        space=replace(config.space, options={"channels": 4, "cells_per_stage": 1, "stages": 2}),
        evaluation=replace(config.evaluation, epsilon=MNIST_EPSILON),
        finalists=replace(config.finalists, images=1000),
    )


def mnist_folder() -> str:
    """Returns a folder with the unpacked MNIST files, as torchvision needs it."""
    root = Path(tempfile.gettempdir(), "hardcell-mnist")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for file in (SHARED / "mnist").glob("*.gz"):
        if not (raw / file.name).exists():
            (raw / file.name).symlink_to(file.resolve())
    import gzip

    for file in raw.glob("*.gz"):
        if not file.with_suffix("").exists():
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    return str(root)


def run(config: Config) -> dict[str, float]:
    """Runs a search. Returns its CPU seconds, numbers of trials, and the errors of its best architecture.

    The test error is that of the retrained architecture.
    """
    evaluate = prepare(config)
    assert isinstance(evaluate, TrainAndAttack)
    with tempfile.TemporaryDirectory() as folder:
        place = StudyLocation(Path(folder, "study.db"))
        storage = open_storage(place, write=True)
        study = create_study(storage, place, config, evaluate.space)
        started = time.process_time()
        for _ in Controller(study, storage, evaluate, Path(folder)).trials():
            pass
        seconds = time.process_time() - started
        trials = read_trials(study)
        close_storage(storage)
    (best,) = choose_finalists(trials, config, 1)
    data, seed = evaluate.data, seed_of(config.seed, "finalist", int(best.key, 16))
    network = build_network(evaluate.space, best.architecture, data.train.x, len(data.classes), seed_of(seed, "weights"))
    epochs, epsilon = config.finalists.epochs, config.evaluation.epsilon
    for _ in train(network, data, config.training, epsilon=epsilon, epochs=epochs, seed=seed):
        pass
    test = open_test(config.data).first(config.finalists.images)
    radii, _ = validation_radii(network, test, config.evaluation, seed)
    return {
        "seconds": seconds,
        "trials": len(trials),
        "complete": sum(trial.state == "complete" for trial in trials),
        "per_minute": 60 * len(trials) / seconds,
        "validation_error": ranked(trials, config.objective)[0].metrics["adversarial_error"],
        "test_error": float((radii <= epsilon).mean()),
    }


def compare(data: str, seeds: int, trials: int, sampler: str, stopping: Halving) -> dict[str, object]:
    """Returns the comparison on one data set, and prints a line for each search."""
    rows = []
    for seed in range(seeds):
        without_stopping = configure(data, seed, trials, sampler)
        with_stopping = replace(
            without_stopping, search=replace(without_stopping.search, trials=2 * trials, stopping=stopping)
        )
        row = {"all epochs": run(without_stopping), "halving": run(with_stopping)}
        for name, metrics in row.items():
            text = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
            print(f"{data} seed {seed} {name}: {text}", flush=True)
        rows.append(row)
    ratios = [row["halving"]["per_minute"] / row["all epochs"]["per_minute"] for row in rows]
    median = {
        f"{kind} of {name}": statistics.median(row[name][kind] for row in rows)
        for name in ("all epochs", "halving")
        for kind in ("validation_error", "test_error")
    }
    differences = [row["halving"]["test_error"] - row["all epochs"]["test_error"] for row in rows]
    return {
        "data": data,
        "architectures_per_minute_ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        **{name: round(value, 4) for name, value in median.items()},
        "mean_test_difference": round(statistics.mean(differences), 4),
        "test_differences": [round(difference, 4) for difference in differences],
    }


def main() -> None:
    """Runs the comparisons and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits", "mnist"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--sampler", default="random", choices=[*SAMPLERS])
    parser.add_argument("--stopping", type=lambda text: Halving(**yaml.safe_load(text)), default=Halving())
    options = parser.parse_args()
    torch.set_num_threads(1)
    comparisons = [compare(d, options.seeds, options.trials, options.sampler, options.stopping) for d in options.data]
    print(json.dumps({"stopping": str(options.stopping), "results": comparisons}, indent=2))


if __name__ == "__main__":
    main()
