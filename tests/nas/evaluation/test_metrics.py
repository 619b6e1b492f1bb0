"""Metrics of a trial: names, values, and the epsilons that they require in a config."""

import math

import numpy as np
import pytest
import torch

from evaluators import PGD, Linf, first_order_error
from nas.config.files import parse_config
from nas.config.metrics import METRICS, STANDARD_METRICS, epsilon_of, is_metric
from nas.config.schema import Config, EvaluationConfig, ObjectiveConfig
from nas.data import Split
from nas.errors import ConfigError
from nas.evaluation.metrics import measured_metrics


@pytest.fixture
def validation(images):
    return Split(images(40), torch.arange(40) % 4, "")


FOUND = np.array([0, 0, 0.05, 0.1, 0.1, 0.2, math.inf, math.inf])


def measured(network, validation, *names, **settings):
    config = EvaluationConfig(epsilon=0.1, attacks={"pgd": PGD()}, **settings)
    return measured_metrics(names, FOUND, network, validation, config)


@pytest.mark.parametrize(
    ("name", "epsilon"),
    [("adversarial_error@0.05", 0.05), ("adversarial_error@8/255", 8 / 255), ("adversarial_error", None), ("macs", None)],
)
def test_epsilon_of_a_metric_is_read_from_its_name(name, epsilon):
    assert epsilon_of(name) == epsilon
    assert is_metric(name)


@pytest.mark.parametrize("name", ["adversarial_error@", "adversarial_error@x", "adversarial_error@1/0", "accuracy", ""])
def test_other_names_are_no_metrics(name):
    assert not is_metric(name)


def test_standard_metrics_are_always_measured(conv, validation):
    assert measured(conv(), validation) == {"clean_error": 0.25, "adversarial_error": 5 / 8}
    assert set(STANDARD_METRICS) <= set(METRICS)


def test_curve_metrics_come_from_the_radii(conv, validation):
    names = ("error_area", "negative_median_radius", "adversarial_error@0.05", "adversarial_error@1/20")
    metrics = measured(conv(), validation, *names, epsilons=(0.05, 0.2))
    assert metrics["adversarial_error@0.05"] == metrics["adversarial_error@1/20"] == 3 / 8
    assert metrics["negative_median_radius"] == -0.1
    # On the log axis from 0.05 to 0.2, three images are wrong everywhere, two on half of it, and the other three nowhere.
    assert metrics["error_area"] == pytest.approx((3 + 2 * 0.5) / 8)


def test_a_median_beyond_the_grid_counts_as_its_end(conv, validation):
    config = EvaluationConfig(epsilon=0.1, epsilons=(0.3,), attacks={"pgd": PGD()})
    radii = np.full(5, math.inf)
    assert measured_metrics(["negative_median_radius"], radii, conv(), validation, config)["negative_median_radius"] == -0.3


def test_first_order_error_and_failed_checks_come_from_the_network(conv, validation):
    network = conv()
    metrics = measured(network, validation, "first_order_error", "failed_checks")
    assert metrics["first_order_error"] == first_order_error(network, validation.x, validation.y, Linf(), 0.1)
    softmax = torch.nn.Sequential(network, torch.nn.Softmax(1))
    assert measured(softmax, validation, "failed_checks")["failed_checks"] > metrics["failed_checks"]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            {"minimise": ["adversarial_error@0.05"]},
            "objective asks for adversarial_error@0.05, so evaluation.epsilons must hold",
        ),
        ({"minimise": ["error_area"]}, "objective asks for error_area, so evaluation.epsilons must hold at least two"),
        ({"constraints": {"negative_median_radius": -0.1}}, "objective asks for negative_median_radius, so evaluation.eps"),
        ({"minimise": ["adversarial_error@much"]}, "must hold metrics .* got 'adversarial_error@much'"),
    ],
)
def test_metrics_that_cannot_be_measured_are_faults(objective, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"objective": objective})


@pytest.mark.parametrize("epsilons", [[], [0], [-0.1], [8], ["8"]])
def test_epsilons_that_are_refused(epsilons):
    with pytest.raises(ConfigError, match=r"evaluation\.epsilons"):
        parse_config({"evaluation": {"epsilons": epsilons}})


def test_config_with_metrics_of_the_curve():
    config = parse_config(
        {
            "evaluation": {"epsilons": ["8/255", 0.2]},
            "objective": {"minimise": ["error_area"], "constraints": {"adversarial_error@8/255": 0.5, "failed_checks": 0}},
        }
    )
    assert config.evaluation.grid() == [8 / 255, 0.12, 0.2]
    assert config.objective.metrics() == ("error_area", "adversarial_error@8/255", "failed_checks")
    assert Config().objective == ObjectiveConfig()
