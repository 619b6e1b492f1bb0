import numpy as np
import pytest

from evaluators.table import error_slopes

EPSILONS = (0.1, 0.5, 1.0, 2.0)


def columns(rates, clean=None, attack="pgd", unit=100.0):
    """Returns a table of accuracies; rates are flip rates (N, E), or errors if clean is None."""
    factor = 1.0 if clean is None else np.asarray(clean)
    by_epsilon = zip(EPSILONS, np.transpose(rates), strict=True)
    table = {f"{attack}_{epsilon}": unit * factor * (1 - np.asarray(rate)) for epsilon, rate in by_epsilon}
    return table if clean is None else {"clean": unit * np.asarray(clean), **table}


@pytest.mark.parametrize("clean", [None, [0.9, 0.5]], ids=["error", "flip rate"])
@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_powers_have_their_exponents_as_slopes(clean, unit):
    rates = np.stack([0.05 * np.array(EPSILONS) ** 1.5, 0.2 * np.array(EPSILONS) ** 0.7])
    (slopes,) = error_slopes(columns(rates, clean, unit=unit))
    assert (slopes.attack, slopes.norm, slopes.epsilons) == ("pgd", "linf", tuple(e / 255 for e in EPSILONS))
    assert slopes.rate == ("error" if clean is None else "flip rate")
    assert slopes.slopes == pytest.approx([1.5, 0.7])


def test_the_slope_is_that_of_polyfit_over_rates_of_at_most_half():
    rates = np.random.default_rng(0).uniform(0.01, 0.8, (50, 4))
    (slopes,) = error_slopes(columns(rates))
    for row, slope in zip(rates, slopes.slopes, strict=True):
        used = row <= 0.5
        if used.sum() < 3:
            assert np.isnan(slope)
        else:
            assert slope == pytest.approx(np.polyfit(np.log(EPSILONS)[used], np.log(row[used]), 1)[0])


def test_rates_of_0_and_missing_cells_are_left_out():
    (slopes,) = error_slopes(columns([[0, 0.1, 0.2, 0.4], [0, 0, 0.2, 0.4], [np.nan, 0.1, 0.2, 0.4]], clean=[1, 1, 1]))
    assert (
        slopes.slopes[0]
        == slopes.slopes[2]
        == pytest.approx(np.polyfit(np.log(EPSILONS)[1:], np.log([0.1, 0.2, 0.4]), 1)[0])
    )
    assert np.isnan(slopes.slopes[1])


def test_attacks_of_fewer_epsilons_have_no_slopes():
    table = columns([[0.1, 0.2, 0.3, 0.4]]) | {"fgsm_1.0": np.array([90.0]), "fgsm_2.0": np.array([80.0])}
    assert [one.attack for one in error_slopes(table)] == ["pgd"]


def test_a_table_without_accuracies_is_refused():
    with pytest.raises(ValueError, match="no accuracy columns among size"):
        error_slopes({"size": np.array([1.0])})
