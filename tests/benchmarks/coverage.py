"""Coverage of the intervals of power laws, on curves with a given exponent.

    python tests/benchmarks/coverage.py [--draws 200] [--curves 0,4] [--sizes 200,1000] [--local]

For each curve and each number of images N, the script draws N radii and fits a law, many times. Radii are exact, or measured
on a geometric grid of 12 points like that of a profile. The script prints a table with these columns:

- fitted: share of the draws in which a law was fitted. The next columns are over these draws.
- exponent: mean exponent.
- width: median of half the width of the 95 % interval of ln(exponent), divided by 1.96.
- at zero: share of the 95 % intervals that hold the exponent of the curve at epsilon 0.
- in window: share of the 95 % intervals that hold the exponent of the law nearest to the curve in the chosen window.
- saturated: share of the laws that are flagged as saturated.
- saturating, log-normal: share of the comparisons with this alternative that favour the law / the alternative.
- ms: milliseconds per fit, over all draws.

With --local, it prints numbers of `local_exponent` instead: the mean flip rate at the top of the window, the mean of
exponent / exponent at epsilon 0, the width as above, and the share of the intervals that hold the exponent at epsilon 0.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from evaluators.curves.local_exponent import LocalExponent, local_exponent
from evaluators.curves.power_law import PowerLaw, fit_power_law


@final
@dataclass(frozen=True)
class Curve:
    """A flip rate as a function of epsilon.

    Attributes:
        rate: Function from epsilons to flip rates.
        exponent: Exponent of the curve at epsilon 0; NaN if there is none.
        top: Largest measured epsilon; None for a curve that approaches 1.
    """

    rate: Callable[[np.ndarray], np.ndarray]
    exponent: float
    top: float | None = None


CURVES = {
    "pure, exponent 0.5": Curve(lambda e: 0.8 * np.minimum(e, 1) ** 0.5, 0.5, 1),
    "pure, exponent 1": Curve(lambda e: 0.8 * np.minimum(e, 1), 1, 1),
    "pure, exponent 2": Curve(lambda e: 0.8 * np.minimum(e, 1) ** 2, 2, 1),
    "pure, exponent 4": Curve(lambda e: 0.8 * np.minimum(e, 1) ** 4, 4, 1),
    "kink: e up to 1, then e^0.3": Curve(lambda e: np.where(e <= 1, 0.4 * e, 0.4 * np.clip(e, 1, 10) ** 0.3), 1, 10),
    "1 - exp(-e)": Curve(lambda e: -np.expm1(-e), 1),
    "1 - exp(-e^2)": Curve(lambda e: -np.expm1(-(e**2)), 2),
    "e / (1 + e)": Curve(lambda e: e / (1 + e), 1),
    "log-normal": Curve(lambda e: norm.cdf(np.log(e)), np.nan),
}
_FINE = np.geomspace(1e-7, 1e4, 400_001)


def draw(curve: Curve, n: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the radii of n images, (N,)."""
    rates = curve.rate(_FINE)
    shares = generator.random(n)
    return np.where(shares <= rates[-1], np.interp(shares, rates, _FINE), np.inf)


def grid_of(curve: Curve, n: int, points: int = 12) -> np.ndarray:
    """Returns a grid like that of `adaptive_epsilons`: from about the tenth smallest of n radii to the top of the curve.

    For a curve without a top, the grid ends at 1.5 times the 90 % quantile of the radii.
    """

    def quantile(share: float) -> float:
        return float(np.interp(share, curve.rate(_FINE), _FINE))

    high = curve.top or quantile(0.9) * 1.5
    return np.geomspace(min(quantile(min(max(10 / n, 0.002), 0.25)), high / 10), high, points)


def on_grid(radii: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Returns radii as measured on a grid: rounded up to a grid point, or infinite above the grid."""
    return np.append(grid, np.inf)[np.searchsorted(grid, radii)]


def nearest_exponent(curve: Curve, inside: np.ndarray) -> float:
    """Returns the exponent of the law nearest to the curve (Kullback-Leibler). `inside` (W,) is the grid in the window."""
    shares, steps = np.diff(curve.rate(inside)), np.diff(np.log(inside))
    target = float(np.diff(curve.rate(inside), prepend=0) @ np.log(inside[-1] / inside))
    return float(brentq(lambda b: shares @ (steps / np.expm1(b * steps)) - target, 1e-3, 100))


def measure(curve: Curve, n: int, exact: bool, draws: int, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Returns the numbers of one row of the table, by column."""
    generator = np.random.default_rng(seed)
    grid, fits, seconds = grid_of(curve, n), [], 0.0
    for _ in range(draws):
        radii = draw(curve, n, generator)
        started = time.process_time()
        measured = (radii, None) if exact else (on_grid(radii, grid), grid)
        fit = fit_power_law(*measured, resamples=resamples)
        seconds += time.process_time() - started
        if isinstance(fit, PowerLaw) and fit.fit == "accepted":
            fits.append(fit)

    def holds(fit: PowerLaw, exponent: float) -> bool:
        return fit.exponent_interval[0] <= exponent <= fit.exponent_interval[1]

    def nearest(fit: PowerLaw) -> float:
        if exact:
            return nearest_exponent(curve, np.geomspace(*fit.window, 200))
        return nearest_exponent(curve, grid[grid <= fit.window[1] * (1 + 1e-9)])

    def verdict_share(form: str, verdict: str) -> float:
        return float(np.mean([fit.alternatives[form].verdict() == verdict for fit in fits]))

    return {
        "fitted": len(fits) / draws,
        "exponent": float(np.mean([fit.exponent for fit in fits])),
        "width": float(np.median([np.log(fit.exponent_interval[1] / fit.exponent_interval[0]) / 3.92 for fit in fits])),
        "at zero": float(np.mean([holds(fit, curve.exponent) for fit in fits])),
        "in window": float(np.mean([holds(fit, nearest(fit)) for fit in fits])),
        "saturated": float(np.mean([fit.saturated for fit in fits])),
        **{
            f"{form} {verdict}": verdict_share(form, verdict)
            for form in fits[0].alternatives
            for verdict in ("power law", "alternative")
        },
        "ms": 1000 * seconds / draws,
    }


def measure_local(curve: Curve, n: int, exact: bool, draws: int, seed: int = 0) -> dict[str, float]:
    """Returns the numbers of one row of the table of --local, by column."""
    generator = np.random.default_rng(seed)
    grid, locals_ = grid_of(curve, n), []
    for _ in range(draws):
        radii = draw(curve, n, generator)
        local = local_exponent(radii) if exact else local_exponent(on_grid(radii, grid), grid)
        if isinstance(local, LocalExponent):
            locals_.append(local)
    return {
        "fitted": len(locals_) / draws,
        "flip rate": float(np.mean([local.flip_rate for local in locals_])),
        "ratio": float(np.mean([local.exponent for local in locals_])) / curve.exponent,
        "width": float(np.median([np.log(local.interval[1] / local.interval[0]) / 3.92 for local in locals_])),
        "at zero": float(np.mean([local.interval[0] <= curve.exponent <= local.interval[1] for local in locals_])),
    }


def print_local(names: list[str], sizes: list[int], draws: int) -> None:
    """Prints the table of --local."""
    print("| curve | radii | N | fitted | flip rate | ratio | width | at zero |\n" + "| --- " * 8 + "|")
    for name in names:
        for exact in (False, True):
            for n in sizes:
                row = measure_local(CURVES[name], n, exact, draws)
                cells = " | ".join(f"{value:.3f}" for value in row.values())
                print(f"| {name} | {'exact' if exact else 'grid'} | {n} | {cells} |", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--curves", default=",".join(str(i) for i in range(len(CURVES))), help="curve numbers, from 0")
    parser.add_argument("--sizes", default="200,449,1000,10000")
    parser.add_argument("--local", action="store_true", help="measure local_exponent")
    options = parser.parse_args()
    names = [list(CURVES)[int(i)] for i in options.curves.split(",")]
    if options.local:
        print_local(names, [int(n) for n in options.sizes.split(",")], options.draws)
        return
    print(
        "| curve | radii | N | fitted | exponent | width | at zero | in window | saturated | saturating | log-normal | ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        for exact in (False, True):
            for n in map(int, options.sizes.split(",")):
                row = measure(CURVES[name], n, exact, options.draws)
                zero = "-" if np.isnan(CURVES[name].exponent) else f"{row['at zero']:.2f}"
                forms = " | ".join(
                    f"{row[f'{form} power law']:.2f} / {row[f'{form} alternative']:.2f}"
                    for form in ("saturating", "log_normal")
                )
                print(
                    f"| {name} | {'exact' if exact else 'grid'} | {n} | {row['fitted']:.2f} | {row['exponent']:.3f} "
                    f"| {row['width']:.3f} | {zero} | {row['in window']:.2f} | {row['saturated']:.2f} | {forms} "
                    f"| {row['ms']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
