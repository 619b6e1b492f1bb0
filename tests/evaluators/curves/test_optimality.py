import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.curves.optimality import optimality


def test_it_is_1_for_the_best_curve_and_0_if_no_image_is_fooled():
    best = np.array([0.0, 0.1, 0.4, 2.0, math.inf])
    assert optimality(best, best, 1.0) == 1
    assert optimality(np.array([0.0, math.inf, math.inf, math.inf, math.inf]), best, 1.0) == 0


def test_it_is_the_share_of_the_area_under_the_error_curve():
    radii, best = np.array([0.0, 0.3, 0.7, math.inf]), np.array([0.0, 0.1, 0.7, 0.9])
    epsilons = np.linspace(0, 1, 200_001)
    areas = [((values[:, None] <= epsilons).mean(0) - 0.25).mean() for values in (radii, best)]
    assert optimality(radii, best, 1.0) == pytest.approx(areas[0] / areas[1], abs=1e-4)


@given(
    st.lists(st.tuples(st.floats(0.01, 2), st.floats(1, 3)), min_size=1, max_size=20),
    st.floats(0.05, 2),
)
def test_larger_radii_have_a_lower_optimality(pairs, largest):
    best = np.array([radius for radius, _ in pairs])
    radii = best * np.array([factor for _, factor in pairs])
    share = optimality(radii, best, largest)
    if share is None:
        assert (best >= largest).all()
        return
    assert 0 <= share <= 1
    assert optimality(radii * 1.1, best, largest) <= share + 1e-12


def test_there_is_no_optimality_without_a_fooled_image():
    assert optimality([0.0, math.inf], [0.0, math.inf], 1.0) is None
    assert optimality([0.0, 0.5], [0.0, 0.5], 0.5) is None


@pytest.mark.parametrize(
    ("radii", "best", "largest", "message"),
    [
        ([0.1], [0.1], 0.0, "largest must be an epsilon above 0 and finite, got 0"),
        ([0.1], [0.1], math.inf, "largest must be an epsilon above 0 and finite, got inf"),
        ([0.1, 0.2], [0.1], 1.0, "best must have one radius per image, (2,), got shape (1,)"),
        ([0.1, 0.2], [0.1, 0.3], 1.0, "best must be at most radii, got 0.3 and 0.2 for image 1"),
        ([-0.1], [-0.1], 1.0, "radii must"),
    ],
)
def test_inputs_that_are_refused(radii, best, largest, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        optimality(radii, best, largest)
