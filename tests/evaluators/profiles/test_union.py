"""Adversarial error over the union of balls of several norms."""

import math
import re

import numpy as np
import pytest
import torch

from evaluators import FMN, L2, PGD, ProfileOptions, error_curve, load_profile, profile, save_profile
from evaluators.norms import L1
from evaluators.profiles.attack_entry import disagreements
from evaluators.profiles.record import RobustnessProfile
from evaluators.profiles.union import union_entry

NEVER = math.inf


def test_the_error_by_hand():
    worst = {
        "linf": np.array([0.0, 0.1, 0.1, NEVER, NEVER, 0.3]),
        "l2": np.array([0.0, 0.5, NEVER, 0.5, 2.0, 2.0]),
    }
    entry = union_entry(worst, {"linf": 0.1, "l2": 0.5})
    # Misclassified, fooled in both norms, in Linf only and in L2 only. The last two images are fooled further away only.
    assert entry["error"] == 4 / 6
    assert entry["epsilons"] == {"linf": 0.1, "l2": 0.5}
    low, high = error_curve([1.0] * 4 + [NEVER] * 2, [1.0]).error_interval[0]
    assert entry["interval"] == [low, high]


def test_an_epsilon_that_is_rounded_differently_counts():
    assert union_entry({"linf": np.array([0.1 + 0.2]), "l2": np.array([NEVER])}, {"linf": 0.3, "l2": 1})["error"] == 1


def test_a_profile_measures_it_at_the_epsilons_of_the_union(conv, images, tmp_path):
    network, x = conv(), images(60)
    with torch.no_grad():
        y = network(x).argmax(1)
    union = {"linf": 0.0217, "l2": 0.213, "l1": 1.03}
    attacks = {"pgd": PGD(), "pgd_l2": PGD(norm=L2()), "fmn": FMN(norm=L1())}
    result = profile(network, x, y, attacks, options=ProfileOptions(union=union))
    assert all(epsilon in result.epsilons(norm) for norm, epsilon in union.items())
    assert result.record["union"] == union_entry({norm: result.worst_case(norm) for norm in union}, union)
    assert result.record["union"]["error"] >= max(result.error_at(epsilon, norm) for norm, epsilon in union.items()) > 0
    save_profile(result, tmp_path)
    assert load_profile(tmp_path).record == result.record
    assert "union" not in profile(network, x, y, {"pgd": PGD()}).record


@pytest.mark.parametrize(
    ("union", "error", "message"),
    [
        ({"linf": 0.1}, ValueError, "union must hold an epsilon for each of at least two norms, got {'linf': 0.1}"),
        ({"linf": 0.1, "l2": 0}, ValueError, "union.l2 must be an epsilon above 0 in pixel units (8/255, not 8), got 0"),
        ([0.1, 0.2], TypeError, "union must be a mapping such as {'linf': 8 / 255, 'l2': 0.5}, got [0.1, 0.2]"),
        ({"linf": "x", "l2": 1}, TypeError, "union must be a mapping such as"),
    ],
)
def test_unions_that_are_refused(union, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ProfileOptions(union=union)


@pytest.mark.parametrize(
    ("union", "message"),
    [
        ({"linf": 0.1, "l1": 1.0}, "union names the norm 'l1', but the attacks' norms are linf, l2"),
        ({"linf": 8, "l2": 1.0}, "so write 8/255 rather than 8"),
    ],
)
def test_unions_that_do_not_fit_the_attacks_or_the_images(union, message, conv, images):
    with pytest.raises(ValueError, match=re.escape(message)):
        profile(
            conv(),
            images(),
            torch.zeros(16, dtype=torch.int64),
            {"a": PGD(), "b": PGD(norm=L2())},
            options=ProfileOptions(union=union),
        )


def test_a_changed_union_disagrees_with_the_radii(conv, images):
    network, x = conv(), images()
    y = network(x).argmax(1)
    attacks = {"a": PGD(), "b": PGD(norm=L2())}
    result = profile(network, x, y, attacks, options=ProfileOptions(union={"linf": 0.1, "l2": 0.5}))
    assert disagreements(result) == []
    for change, place in (
        ({"error": result.record["union"]["error"] + 0.01}, "union.error"),
        ({"epsilons": {"linf": 1e-6, "l2": 1e-6}}, "union.error"),
        ({"epsilons": {"linf": 0.1, "l1": 0.5}}, "union.epsilons"),
    ):
        changed = RobustnessProfile({**result.record, "union": {**result.record["union"], **change}}, result.radii)
        assert place in disagreements(changed)
