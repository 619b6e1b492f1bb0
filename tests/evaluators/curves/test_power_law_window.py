import numpy as np
import pytest

from evaluators.curves.power_law_window import choose_windows, log_shares

GRIDS = {
    "geometric": np.geomspace(0.001, 0.1, 12),
    "irregular": np.array([0.001, 0.0015, 0.004, 0.005, 0.011, 0.02, 0.021, 0.06, 0.1]),
    "linear": np.linspace(0.01, 0.1, 10),
}


def tables(grid, rows=5, n=600):
    """Returns counts of radii in the cells of a grid, (R, E). Each row has an exponential distribution of another scale."""
    generator = np.random.default_rng(0)
    radii = np.geomspace(0.005, 0.1, rows)[:, None] * generator.exponential(size=(rows, n))
    cells = np.searchsorted(grid, radii)
    return np.stack([np.bincount(row, minlength=len(grid) + 1)[: len(grid)] for row in cells]).astype(float)


def by_brute_force(counts, grid):
    """Returns the smallest Kolmogorov-Smirnov distance of all windows of one table, and that window's top and exponent."""
    windows = []
    for last in range(4, len(grid) + 1):
        inside, cells = grid[:last], counts[:last]
        if cells.sum() < np.clip(counts.sum() / 5, 20, 40) or np.count_nonzero(cells) < 4:
            continue
        exponents = np.geomspace(0.05, 20, 20_001)[:, None]
        shares = np.diff((inside / inside[-1]) ** exponents, prepend=0)
        best = exponents[(cells * np.log(np.maximum(shares, 1e-300))).sum(1).argmax(), 0]
        distance = np.abs(np.cumsum(cells) / cells.sum() - (inside / inside[-1]) ** best).max()
        windows.append((distance, inside[-1], best))
    return min(windows)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_window_is_that_of_least_distance(grid):
    counts = tables(grid)
    windows = choose_windows(counts, np.log(grid))
    for row, cells in enumerate(counts):
        distance, top, exponent = by_brute_force(cells, grid)
        assert grid[windows.last[row]] == top
        assert windows.exponent[row] == pytest.approx(exponent, rel=1e-3)
        assert windows.distance[row] == pytest.approx(distance, abs=1e-4)
        assert windows.n[row] == cells[grid <= top].sum()
    assert len(set(windows.last)) > 1


def test_each_table_is_fitted_as_if_alone():
    # `choose_windows` processes 256 tables at a time.
    grid = GRIDS["irregular"]
    counts = tables(grid, rows=600)
    windows, log_grid = choose_windows(counts, np.log(grid)), np.log(grid)
    for row in (0, 255, 256, 599):
        alone = choose_windows(counts[row : row + 1], log_grid)
        assert windows.last[row] == alone.last[0]
        assert windows.exponent[row] == pytest.approx(alone.exponent[0], rel=1e-9)
    assert len(windows.last) == len(windows.exponent) == len(windows.n) == len(windows.distance) == 600


@pytest.mark.parametrize(
    ("flips", "total", "allowed"), [(19, 60, False), (21, 100, True), (21, 120, False), (41, 5000, True)]
)
def test_a_window_holds_a_fifth_of_the_flips_or_40(flips, total, allowed):
    # Only the first five cells follow a law, and they follow it exactly. They are the best window if they hold enough flips.
    grid = np.append(np.linspace(0.2, 1, 5), [2, 3, 4])
    counts = np.array([[flips / 5] * 5 + [(total - flips) * share for share in (0.1, 0.2, 0.7)]])
    windows = choose_windows(counts, np.log(grid))
    assert (windows.last[0] <= 4) == allowed
    assert (windows.distance[0] < 1e-6) == allowed


@pytest.mark.parametrize(
    "counts",
    [
        [0] * 12,
        [100] + [0] * 11,
        [0] * 11 + [100],
        [50, 50, 50] + [0] * 9,
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8],  # 19 flips
    ],
)
def test_no_window_without_20_flips_in_4_cells(counts):
    windows = choose_windows(np.array([counts], dtype=float), np.log(GRIDS["geometric"]))
    assert windows.last[0] == -1
    assert np.isnan(windows.exponent[0])
    assert windows.distance[0] == np.inf


def test_flips_at_one_end_have_an_extreme_exponent_and_no_error():
    counts = np.array([[1000, 1, 1, 1] + [0] * 8, [0] * 8 + [1, 1, 1, 100_000]], dtype=float)
    windows = choose_windows(counts, np.log(GRIDS["geometric"]))
    assert windows.exponent[0] < 0.01
    assert windows.exponent[1] > 15


def test_the_shares_of_a_law_are_those_of_its_power():
    grid = GRIDS["irregular"]
    shares = np.exp(log_shares(1.7, np.log(grid)))
    np.testing.assert_allclose(shares, np.diff((grid / grid[-1]) ** 1.7, prepend=0))
    assert shares.sum() == pytest.approx(1)
