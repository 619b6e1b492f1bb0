"""Toy spaces, handmade histories and studies for the tests of samplers."""

import optuna
import pytest
from torch import nn

from nas.samplers import FinishedTrial, History, StudySampler
from search_spaces import Choice, SearchSpace


@pytest.fixture(autouse=True)
def silent():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="session")
def toy():
    """A factory of spaces with choices a, b, c, and so on. A choice is given as a tuple, or as n for 0 to n - 1."""

    def make(*choices, canonical=dict):
        values = [tuple(range(choice)) if isinstance(choice, int) else choice for choice in choices]
        named = {chr(ord("a") + i): Choice(*each) for i, each in enumerate(values)}
        return SearchSpace(name="toy", choices=named, build=lambda *_: nn.Identity(), canonical=canonical)

    return make


@pytest.fixture(scope="session")
def history_of():
    """A factory of histories: trials are given as (architecture, values, constraints), numbered from 0."""

    def make(space, trials=(), *, objectives=1, start=0, running=(), cache=None):
        finished = [
            FinishedTrial(number, space.key(architecture), architecture, values, constraints)
            for number, (architecture, values, constraints) in enumerate(trials)
        ]
        keys = {each.key for each in finished} | {space.key(architecture) for architecture in running}
        return History(
            space=space,
            objectives=objectives,
            finished=tuple(finished),
            keys=keys,
            start=start,
            study=None,
            trial=None,
            key_of=space.key,
            cache={} if cache is None else cache,
        )

    return make


@pytest.fixture(scope="session")
def search():
    """Runs trials of `study`, or of a new study if it is None, and returns their architectures.

    `measure` maps an architecture to a pair: the values (one number or several; None for a failed trial) and the
    constraints, by name.
    """

    def run(sampler, space, measure, trials, *, seed=0, random_trials=5, study=None, objectives=1):
        chosen = StudySampler(sampler, space, seed=seed, random_trials=random_trials)
        if study is None:
            study = optuna.create_study(directions=["minimize"] * objectives, sampler=chosen)
        else:
            study.sampler = chosen
        architectures = []
        for _ in range(trials):
            trial = study.ask()
            architectures.append(space.suggest(trial))
            values, constraints = measure(architectures[-1])
            for name, excess in constraints.items():
                trial.set_constraint(name, excess)
            if values is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, values)
        return architectures

    return run
