"""The evaluator of `hardcell tabulate`: its errors equal those of a search, and those of the attacks themselves."""

import random

import numpy as np
import pytest

from evaluators import error_at, radii
from nas.data import open_test
from nas.evaluation.train_and_tabulate import TrainAndTabulate
from nas.executors import Job
from nas.pipeline.prepare import prepare
from nas.training.checkpoints import Checkpoint
from nas.training.epoch import EpochMeasures
from nas.training.train import train

NAMES = ("clean_error", "adversarial_error@0.02", "adversarial_error", "adversarial_error@0.1", "adversarial_error@0.2")


def run(evaluate, job):
    """Returns the epochs and the result of a job."""
    steps, events = evaluate(job, Checkpoint()), []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as stop:
            return events[1:], stop.value


@pytest.fixture(scope="module")
def searched(tiny):
    minimise = "objective.minimise=[adversarial_error, adversarial_error@0.02, adversarial_error@0.1, adversarial_error@0.2]"
    return prepare(
        tiny(minimise, "evaluation.epsilons=[0.02, 0.05, 0.1, 0.2]", "training.epochs=5", "training.selection_from=0")
    )


@pytest.fixture(scope="module")
def tabulator(searched):
    return TrainAndTabulate(searched.config, searched.space, searched.data, open_test(searched.config.data))


@pytest.fixture(scope="module")
def job(searched):
    architecture = searched.space.canonical(searched.space.sample(random.Random(1)))
    return Job(0, architecture, architecture, seed=5)


@pytest.fixture(scope="module")
def tabulated(tabulator, job):
    return run(tabulator, job)


def test_training_and_errors_are_those_of_a_search(searched, tabulated, job):
    epochs, result = run(searched, job)
    assert result.reason is None
    assert [(e.loss, e.adversarial_error) for e in epochs] == [(e.loss, e.adversarial_error) for e in tabulated[0]]
    for name in NAMES:
        assert tabulated[1].metrics[name] == result.metrics[name]


def test_errors_after_an_epoch_are_those_that_the_training_measures(tabulated):
    """Both attack the averaged weights with the selection attack and the same seed."""
    averaged = [epoch for epoch in tabulated[0] if epoch.averaged]
    assert averaged
    for epoch in averaged:
        assert epoch.measured["clean_error"] == epoch.clean_error
        assert epoch.measured["adversarial_error"] == epoch.adversarial_error


def test_test_errors_are_those_of_the_attack(tabulator, tabulated, job):
    """The errors on the grid, image by image, against attacks of each epsilon alone. PGD is monotone on this network."""
    epochs = []

    def measure(network):
        test = tabulator.test
        own = radii(network, test.x, test.y, tabulator.config.training.selection, [0.02, 0.05, 0.1, 0.2], seed=job.seed)
        epochs.append({epsilon: error_at(own.numpy(), epsilon) for epsilon in (0.0, 0.02, 0.05, 0.1, 0.2)})
        return {}

    network = tabulator.trainer.build(job.architecture, job.seed)
    config = tabulator.config
    measures = EpochMeasures(function=measure)
    for _ in train(network, tabulator.data, config.training, epsilon=0.05, epochs=5, seed=job.seed, measures=measures):
        pass
    for own, epoch in zip(epochs, tabulated[0], strict=True):
        names = (
            "clean_error",
            "adversarial_error@0.02",
            "adversarial_error",
            "adversarial_error@0.1",
            "adversarial_error@0.2",
        )
        # Random starts differ, because the test images follow the validation images. So an error may differ by few images.
        for name, error in zip(names, own.values(), strict=True):
            assert epoch.measured[f"test_{name}"] == pytest.approx(error, abs=0.02 if name != "clean_error" else 0)


def test_errors_grow_with_epsilon(tabulated):
    numbers = [tabulated[1].metrics, *(epoch.measured for epoch in tabulated[0])]
    for metrics in numbers:
        for prefix in ("", "test_"):
            errors = [metrics[prefix + name] for name in NAMES]
            assert errors == sorted(errors)
    assert errors[0] < errors[-1]


def test_law_is_that_of_the_flip_rates(tabulated):
    """The exponent is between the slopes of the flip rate on the log-log grid."""
    metrics = tabulated[1].metrics
    clean = metrics["test_clean_error"]
    flips = np.array([(metrics[f"test_{name}"] - clean) / (1 - clean) for name in NAMES[1:]])
    slopes = np.diff(np.log(flips)) / np.diff(np.log([0.02, 0.05, 0.1, 0.2]))
    assert 0.8 * slopes.min() <= metrics["test_power_law_exponent"] <= 1.2 * slopes.max()


def test_attacks_of_several_norms_count(tiny, job):
    config = tiny(
        "evaluation.attacks={a: {name: pgd, steps: 2}, b: {name: pgd, steps: 2, norm: l2}}",
        "evaluation.other_norms={l2: 1.0}",
        "finalists.attacks={a: {name: pgd}, b: {name: pgd, norm: l2}}",
    )
    evaluate = prepare(config)
    tabulator = TrainAndTabulate(config, evaluate.space, evaluate.data, open_test(config.data))
    assert run(tabulator, job)[1].metrics["adversarial_error"] == run(evaluate, job)[1].metrics["adversarial_error"]


def test_hashes_name_the_test_images(tabulator, searched):
    assert tabulator.hashes == {**searched.hashes, "test": tabulator.test.hash}
    assert tabulator.source == searched.source
