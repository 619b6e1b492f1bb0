"""Metrics of a trial: names, values, and the epsilons that they require in a config."""

import math

import numpy as np
import pytest
import torch

from evaluators import PGD, Linf, first_order_error
from nas.config.evaluation import EvaluationConfig
from nas.config.files import parse_config
from nas.config.metrics import LAW_METRICS, METRICS, STANDARD_METRICS, epsilon_of, is_metric
from nas.config.schema import Config, ObjectiveConfig
from nas.data import Split
from nas.errors import ConfigError, UndefinedMetricError
from nas.evaluation.base import reason_of
from nas.evaluation.metrics import measured_metrics


@pytest.fixture
def validation(images):
    return Split(images(40), torch.arange(40) % 4, "")


FOUND = np.array([0, 0, 0.05, 0.1, 0.1, 0.2, math.inf, math.inf])


def measured(network, validation, *names, **settings):
    config = EvaluationConfig(epsilon=0.1, attacks={"pgd": PGD()}, **settings)
    return measured_metrics(names, FOUND, config.epsilon >= FOUND, network, validation, config)


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
    assert (
        measured_metrics(["negative_median_radius"], radii, radii <= 0.1, conv(), validation, config)[
            "negative_median_radius"
        ]
        == -0.3
    )


GRID = np.geomspace(0.01, 0.1, 8).tolist()


def test_metrics_of_the_power_law_are_those_of_its_fit(conv, validation):
    # 400 radii at the quantiles of (epsilon / 0.1) ** 2, on the grid.
    radii = np.array(GRID)[np.searchsorted(GRID, 0.1 * (np.arange(1, 401) / 400) ** 0.5 * (1 - 1e-12))]
    radii = np.append(radii, np.full(100, math.inf))
    config = EvaluationConfig(epsilon=0.1, epsilons=tuple(GRID), attacks={"pgd": PGD()})
    names = ("negative_power_law_exponent", "power_law_prefactor")
    metrics = measured_metrics(names, radii, radii <= 0.1, conv(), validation, config)
    assert metrics["negative_power_law_exponent"] == pytest.approx(-2, rel=0.01)
    assert metrics["power_law_prefactor"] == pytest.approx(0.8 / 0.1**2, rel=0.03)
    # Fewer flips at small epsilon and equally many at the largest: a larger exponent, and a smaller metric.
    steeper = np.array(GRID)[np.searchsorted(GRID, 0.1 * (np.arange(1, 401) / 400) ** 0.25 * (1 - 1e-12))]
    steeper = np.append(steeper, np.full(100, math.inf))
    other = measured_metrics(names, steeper, steeper <= 0.1, conv(), validation, config)
    assert other["negative_power_law_exponent"] < metrics["negative_power_law_exponent"]
    # More flips by a factor at every epsilon: a larger prefactor.
    more = measured_metrics(names, radii[:400], radii[:400] <= 0.1, conv(), validation, config)
    assert more["power_law_prefactor"] > 1.2 * metrics["power_law_prefactor"]


@pytest.mark.parametrize("name", LAW_METRICS)
@pytest.mark.parametrize(
    ("radius", "reason"),
    [(math.inf, "0 of 50 images were flipped"), (0.0, "0 of 0 images"), (0.1, "50 flips fall in 1 cells")],
)
def test_a_metric_without_a_power_law_is_undefined_and_its_reason_is_that_of_the_trial(
    name, radius, reason, conv, validation
):
    config = EvaluationConfig(epsilon=0.1, epsilons=tuple(GRID), attacks={"pgd": PGD()})
    with pytest.raises(UndefinedMetricError, match=f"{name} is undefined: {reason}") as caught:
        measured_metrics([name], np.full(50, radius), np.full(50, radius) <= 0.1, conv(), validation, config)
    assert reason_of(caught.value) == str(caught.value)


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
        (
            {"minimise": ["negative_power_law_exponent"]},
            "objective asks for negative_power_law_exponent, so evaluation.epsilons must hold at least four epsilons",
        ),
        (
            {"constraints": {"power_law_prefactor": 5}},
            "asks for power_law_prefactor, so .* must hold at least four epsilons",
        ),
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
