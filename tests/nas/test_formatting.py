"""Formatting of epsilons and p-values."""

import pytest

from nas.formatting import format_epsilon, format_p_value


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (8 / 255, "8/255"),
        (0.5 / 255, "0.5/255"),
        (0.25 / 255, "0.25/255"),
        (16 / 255, "16/255"),
        (0.12, "0.12"),
        (0.2, "0.2"),  # 0.2 equals 51/255 in every bit, but is not converted.
        (0.0, "0"),
        (1.0, "1"),
        (0.123456, "0.123"),
        (1.23456, "1.23"),
        (4.1e-07, "4.1e-07"),
    ],
)
def test_format_epsilon(epsilon, text):
    assert format_epsilon(epsilon) == text


@pytest.mark.parametrize(("p", "text"), [(0.0, "p < 0.001"), (0.001, "p = 0.001"), (0.0484, "p = 0.048"), (1.0, "p = 1")])
def test_format_p_value(p, text):
    assert format_p_value(p) == text
