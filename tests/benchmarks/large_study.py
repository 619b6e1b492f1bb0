"""Speed of a study with many finished trials: opening it, suggestions of each sampler, the report and the status.

Goals with 10,000 trials: open in under 10 s, suggest in under 1 s with each sampler, report in under 60 s. The trials have
artificial results, which are stored as the controller stores them. Each sampler makes two suggestions: one right after the
study is opened (cold), and a second one (warm). With `--growth`, smaller studies show how the times grow with the number of
trials.

    python tests/benchmarks/large_study.py [--trials 10000] [--space cell201] [--growth]

Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from nas import Config
from nas.config.schema import ObjectiveConfig
from nas.reports.page import write_report
from nas.runs.folder import RunFolder, create_run
from nas.runs.run import read_run, study_location
from nas.runs.status import run_status
from nas.samplers import SAMPLERS, StudySampler
from nas.spaces.config import SpaceConfig
from nas.spaces.options import open_space
from nas.study.storage import close_storage, open_storage
from nas.study.study import create_study, open_study
from nas.study.trial import read_trials


def fill(path: Path, config: Config, trials: int) -> None:
    """Creates a run whose study has `trials` trials of different architectures. One in twenty is rejected."""
    folder, space = create_run(path, config), open_space(config.space, trust=True)
    place = study_location(folder, config)
    storage = open_storage(place, write=True)
    study = create_study(storage, place, config, space)
    generator, seen, batch = random.Random(0), set(), []
    distributions = {name: CategoricalDistribution(choice.values) for name, choice in space.choices.items()}
    while len(batch) < trials:
        proposed = space.sample(generator)
        if tuple(proposed.values()) in seen:
            continue
        seen.add(tuple(proposed.values()))
        number = len(batch)
        # The key of the canonical form is not used, because cell201 has only 5,554 forms. Any unique key works here.
        key = f"{number:012x}"
        cost = sum(len(str(value)) for value in proposed.values())
        metrics = {
            "adversarial_error": min(1.0, max(0.0, cost / 80 + generator.gauss(0, 0.05))),
            "clean_error": generator.uniform(0, 0.15),
            "parameters": 1000.0 * cost,
            "macs": 1e6 * cost,
        }
        rejected = number % 20 == 19
        attributes = {
            "proposed": proposed,
            "key": key,
            "architecture": proposed,
            "attempts": 1,
            "random": number < config.search.random_trials,
            "worker": "local",
            "metrics": metrics,
            "seconds": 1.0,
            **({"reason": "parameters 90000 exceeds 80000"} if rejected else {}),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = create_trial(
                state=TrialState.PRUNED if rejected else TrialState.COMPLETE,
                values=None if rejected else [metrics[name] for name in config.objective.minimise],
                params=proposed,
                distributions=distributions,
                user_attrs=attributes,
                constraints={"clean_error": (metrics["clean_error"] - 0.1) / 0.1},
            )
        batch.append(trial)
    study.add_trials(batch)
    close_storage(storage)


def suggestions(path: Path, config: Config) -> dict[str, dict[str, float]]:
    """Returns the seconds of the first and the second suggestion of each sampler. The study is opened once per sampler."""
    seconds_by_sampler = {}
    for name, kind in SAMPLERS.items():
        place = study_location(RunFolder(path), config)
        storage = open_storage(place, write=True)
        study = optuna.load_study(study_name=place.name, storage=storage)
        study.get_trials(deepcopy=False)  # Opening the study is measured separately.
        space = open_space(config.space, trust=True)
        study.sampler = StudySampler(kind(), space, seed=0, random_trials=config.search.random_trials)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            trial = study.ask()
            space.suggest(trial)
            seconds.append(round(time.perf_counter() - started, 3))
            study.tell(trial, state=TrialState.FAIL)
        seconds_by_sampler[name] = {"cold": seconds[0], "warm": seconds[1]}
        close_storage(storage)
    return seconds_by_sampler


def measure(config: Config, trials: int) -> dict[str, object]:
    """Returns all times for one size of study."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        fill(path, config, trials)
        place = study_location(RunFolder(path), config)
        started = time.perf_counter()
        with open_study(place) as study:
            assert study is not None
            read_trials(study)
        opened = time.perf_counter() - started
        suggested = suggestions(path, config)
        started = time.perf_counter()
        write_report(read_run(path))
        reported = time.perf_counter() - started
        started = time.perf_counter()
        run_status(path)
        shown = time.perf_counter() - started
    return {
        "trials": trials,
        "open_seconds": round(opened, 2),
        "suggest_seconds": suggested,
        "report_seconds": round(reported, 2),
        "status_seconds": round(shown, 2),
    }


def main() -> None:
    """Runs the measurements and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--space", default="cell201", choices=["cell201", "darts", "nasnet"])
    parser.add_argument("--objectives", type=int, default=1, choices=[1, 2])
    parser.add_argument("--growth", action="store_true", help="also measure studies of 1/10, 1/100 and so on of the size")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    minimise = ("adversarial_error", "parameters")[: options.objectives]
    config = replace(
        Config(), space=SpaceConfig(name=options.space, options={}), objective=ObjectiveConfig(minimise=minimise)
    )
    sizes = [options.trials]
    while options.growth and sizes[0] > 100:
        sizes.insert(0, sizes[0] // 10)
    print(json.dumps([measure(config, size) for size in sizes], indent=2))


if __name__ == "__main__":
    main()
