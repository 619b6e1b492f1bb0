"""Is the distribution of logit differences universal, finite at zero and constant over training? Does it predict the curve?

Claim (Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846): adversarial error is a power law
because the differences between the largest logit and the others have a universal distribution, finite at zero, which hardly
changes while a network is trained.

Method: use the networks of universality.py. The rivals of an image are all classes except the one with the largest logit, in
the order of their logits. Measure the density of the differences D_j to every rival j, at zero and elsewhere. Compare the
shape of this density with that of independent logits, between networks, and over training. Compare the measured error curve
with the mean-field prediction from the differences and one gradient norm per rival.

    python examples/papers/logit_differences.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import numpy as np
from lab import SIZES, NetworkSpec, plain_ticks
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from universality import network_specs

from evaluators import PGD, Linf, error_curve, fit_power_law, margins, radii
from evaluators.logits.differences import (
    independent_logits,
    logit_differences,
    logits_of,
    mean_field_radii,
    near_zero,
    shape_distance,
)
from evaluators.logits.margin import adaptive_epsilons
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

# Number of stored quantiles of the differences.
QUANTILES = 400
# Number of pairs of samples for the distance by chance.
DRAWS = 30
SHARES = (0.03, 0.1, 0.3)
TRACKED_NETWORKS = [
    NetworkSpec(data, "cell", training) for data in ("digits", "mnist") for training in ("standard", "adversarial")
]


def measure(name: str, spec: NetworkSpec, folder: Path) -> dict:
    """Returns the logit differences and the error curves of one network."""
    return lab.cached_json(folder / "networks" / f"{spec.name}.json", _measure, name, spec, folder.parent)


def _measure(name: str, spec: NetworkSpec, work: Path) -> dict:
    network, split = lab.load_or_train(spec, SIZES[name], work)
    logits = logits_of(network, split.x)
    independent = independent_logits(logits)
    logit_margins = margins(network, split.x, split.y, [Linf()])
    grid = adaptive_epsilons(logit_margins.radii["linf"], 1.0, 18)
    measured = radii(network, split.x, split.y, PGD(steps=10), grid).numpy()
    curves = {
        "first order": logit_margins.radii["linf"],
        "mean field": mean_field_radii(logit_margins, "linf"),
        "PGD": measured,
    }
    return {
        **asdict(spec),
        "images": len(split.x),
        "right": int(logit_margins.right.sum()),
        "epsilons": grid,
        "flip_rates": {kind: [float(r) for r in error_curve(sizes, grid).flip_rate] for kind, sizes in curves.items()},
        **_differences(logits),
        "independent": _differences(independent),
        "independent_distance": shape_distance(logit_differences(logits)[:, 0], logit_differences(independent)[:, 0]),
    }


def _differences(logits: np.ndarray) -> dict:
    differences = logit_differences(logits)
    law = fit_power_law(differences[:, 0])
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return {
        "mean": [float(mean) for mean in differences.mean(0)],
        # One entry per rival, in units of the mean difference.
        "near_zero": [asdict(near_zero(column)) for column in differences.T],
        "near_zero_exponent": [law.exponent, *law.exponent_interval] if law.fit == "accepted" else None,
        "quantiles": [[float(f"{q:.5g}") for q in np.quantile(column, shares)] for column in differences.T],
    }


def measure_epochs(name: str, spec: NetworkSpec, folder: Path) -> list[dict]:
    """Returns the logit differences of one network after selected epochs."""
    return lab.cached_json(folder / "courses" / f"{spec.name}.json", _measure_epochs, name, spec, folder.parent)


def _measure_epochs(name: str, spec: NetworkSpec, work: Path) -> list[dict]:
    _, split = lab.splits(spec, SIZES[name], work)
    epochs = []

    def record_epoch(epoch, network):
        if epoch in (0, 1, 2, 4, 8, 16) or epoch == SIZES[name].epochs:
            epochs.append({"epoch": epoch, **_differences(logits_of(network, split.x))})

    lab.load_or_train(spec, SIZES[name], work, each_epoch=record_epoch)
    return epochs


def prediction_ratios(row: dict) -> dict[str, dict[str, float]]:
    """Returns the ratio of predicted to measured epsilon at several flip rates, for each prediction."""
    ratios = {}
    for kind in ("first order", "mean field"):
        at = {}
        for share in SHARES:
            rates = (np.array(row["flip_rates"][which]) for which in (kind, "PGD"))
            guess, measured = (_epsilon_at_rate(np.array(row["epsilons"]), rate, share) for rate in rates)
            if guess and measured:
                at[f"{share:g}"] = guess / measured
        ratios[kind] = at
    return ratios


def _epsilon_at_rate(grid: np.ndarray, rate: np.ndarray, share: float) -> float | None:
    positive = rate > 0
    if not positive.any() or rate.max() < share or rate[positive].min() > share:
        return None
    return float(np.exp(np.interp(math.log(share), np.log(rate[positive]), np.log(grid[positive]))))


def analyse(networks: list[dict], courses: dict[str, list[dict]]) -> dict:
    """Returns the numbers behind the figures."""
    nearest = {_name(row): np.array(row["quantiles"][0]) for row in networks}
    between = [shape_distance(nearest[a], nearest[b]) for a, b in combinations(nearest, 2)]
    exponents = [row["near_zero_exponent"] for row in networks if row["near_zero_exponent"]]
    ratios = [prediction_ratios(row) for row in networks]

    def ratio(kind: str, share: str) -> dict[str, float] | None:
        return _quantile_summary([row[kind][share] for row in ratios if share in row[kind]])

    def by_data(value) -> dict[str, dict[str, float] | None]:
        groups = {
            name: [row for row in networks if row["data"] == name] for name in dict.fromkeys(row["data"] for row in networks)
        }
        return {
            name: _quantile_summary([v for row in group if (v := value(row)) is not None]) for name, group in groups.items()
        }

    with_gap = [row for row in networks if row["near_zero"][0]["count"] == 0]
    return {
        "networks": len(networks),
        "density_above_zero": sum(row["near_zero"][0]["interval"][0] > 0 for row in networks),
        # Networks without a difference below a tenth of the mean. They memorise their images.
        "networks_with_a_gap": len(with_gap),
        "density_at_zero": _quantile_summary([row["near_zero"][0]["density"] for row in networks]),
        "density_at_zero_independent": _quantile_summary(
            [row["independent"]["near_zero"][0]["density"] for row in networks]
        ),
        "exponent_near_zero": _quantile_summary([exponent[0] for exponent in exponents]),
        "exponent_intervals_that_hold_1": sum(low <= 1 <= high for _, low, high in exponents),
        "exponents_fitted": len(exponents),
        "distance_to_independent": _quantile_summary([row["independent_distance"] for row in networks]),
        "distance_between_networks": _quantile_summary(between),
        "distance_by_chance": _quantile_summary(
            [_distance_by_chance(row["quantiles"][0], row["images"]) for row in networks]
        ),
        "predicted_over_measured_epsilon": {
            kind: {f"{share:g}": ratio(kind, f"{share:g}") for share in SHARES} for kind in ("first order", "mean field")
        },
        "predicted_over_measured_epsilon_by_data": {
            kind: by_data(lambda row, kind=kind: prediction_ratios(row)[kind].get("0.1"))
            for kind in ("first order", "mean field")
        },
        "predicted_over_measured_epsilon_with_a_gap": {
            kind: _quantile_summary([at["0.1"] for row in with_gap if "0.1" in (at := prediction_ratios(row)[kind])])
            for kind in ("first order", "mean field")
        },
        "distance_to_independent_by_data": by_data(lambda row: row["independent_distance"]),
        "training": {name: _over_training(name, rows, networks) for name, rows in courses.items()},
    }


def _over_training(name: str, rows: list[dict], networks: list[dict]) -> dict:
    images = next(row["images"] for row in networks if name == f"{row['data']} {row['training']}")
    last = np.array(rows[-1]["quantiles"][0])
    return {
        "by_chance": _distance_by_chance(rows[-1]["quantiles"][0], images),
        "epochs": [
            {
                "epoch": row["epoch"],
                "mean": row["mean"][0],
                "density_at_zero": row["near_zero"][0]["density"],
                "distance_to_last": shape_distance(np.array(row["quantiles"][0]), last),
            }
            for row in rows
        ],
    }


def _distance_by_chance(quantiles: list[float], images: int) -> float:
    """Returns the mean distance between the shapes of two samples from the same distribution."""
    generator, values = np.random.default_rng(0), np.array(quantiles)
    pairs = generator.choice(values, size=(DRAWS, 2, images))
    return float(np.mean([shape_distance(first, second) for first, second in pairs]))


def _summary_row(row: dict) -> dict:
    """Returns the row of a network for the results file, with five quantiles for each rival."""
    few = [round(share * QUANTILES) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    return {name: value for name, value in row.items() if name not in ("quantiles", "independent")} | {
        "quantiles_5_25_50_75_95": [[one[place] for place in few] for one in row["quantiles"]]
    }


def _name(row: dict) -> str:
    return f"{row['data']} {row['architecture']} {row['training']}"


def _quantile_summary(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"median": float(median), "tenth": float(low), "ninth_tenth": float(high), "n": len(values)}


def draw_shapes(networks: list[dict], file: Path) -> None:
    """Plots the density of the nearest difference for all networks, and of every rival for one network."""
    at = np.linspace(0, 4, 200)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 4), layout="constrained")
        panels = figure.subplots(1, 3)
        data = list(dict.fromkeys(row["data"] for row in networks))
        for row in networks:
            colour = COLOURS[data.index(row["data"])]
            panels[0].plot(at, _density(row["quantiles"][0], at), color=colour, alpha=0.5, linewidth=1)
            panels[1].plot(at, _density(row["independent"]["quantiles"][0], at), color=colour, alpha=0.5, linewidth=1)
        for axes, title in zip(panels, ("networks (peaks above 1.3 are cut)", "independent logits"), strict=False):
            axes.plot(at, np.exp(-at), color="black", linestyle="--", linewidth=1.2)
            axes.set(title=title, xlabel="difference to the nearest rival / its mean", ylim=(0, 1.3), xlim=(0, 4))
            axes.set_ylabel("density")
        handles = [mpl.lines.Line2D([], [], color=COLOURS[place], label=name) for place, name in enumerate(data)]
        handles.append(mpl.lines.Line2D([], [], color="black", linestyle="--", label="exponential"))
        panels[0].legend(handles=handles, fontsize=8)
        shown = next(
            (row for row in networks if (row["architecture"], row["training"]) == ("cell", "standard")), networks[0]
        )
        far = np.linspace(0, max(shown["quantiles"][-1]) / shown["mean"][0], 200)
        for number, quantiles in enumerate(shown["quantiles"]):
            scale = shown["mean"][number] / shown["mean"][0]
            density = _density(quantiles, far / scale) / scale
            panels[2].plot(far, density, color=mpl.colormaps["viridis"](number / 9), linewidth=1.2, label=f"{number + 1}")
        panels[2].set(title=_name(shown), xlabel="difference / mean of the nearest", xlim=(0, far[-1]), ylim=(0, None))
        panels[2].set_ylabel("density")
        panels[2].legend(title="rival", fontsize=7, ncols=2, title_fontsize=8)
        figure.savefig(file, dpi=110)


def _density(quantiles: list[float], at: np.ndarray) -> np.ndarray:
    """Returns the density of differences in units of their mean. The data are mirrored at 0 to avoid a boundary bias."""
    values = np.array(quantiles) / np.mean(quantiles)
    return 2 * gaussian_kde(np.concatenate([values, -values]), 0.12)(at)


def draw_training(courses: dict[str, list[dict]], file: Path) -> None:
    """Plots the density after several epochs of training."""
    at = np.linspace(0, 4, 200)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(courses), 3.4), layout="constrained")
        panels = figure.subplots(1, len(courses), sharey=True, squeeze=False)[0]
        for axes, (name, rows) in zip(panels, courses.items(), strict=True):
            for place, row in enumerate(rows):
                colour = mpl.colormaps["viridis"](place / max(1, len(rows) - 1))
                axes.plot(at, _density(row["quantiles"][0], at), color=colour, linewidth=1.4, label=f"{row['epoch']}")
            axes.set(title=name, xlabel="difference / its mean", xlim=(0, 4), ylim=(0, None))
        panels[0].set_ylabel("density of the nearest difference")
        panels[0].legend(title="after epoch", fontsize=8, title_fontsize=8)
        figure.savefig(file, dpi=110)


def draw_predictions(networks: list[dict], file: Path) -> None:
    """Plots measured and predicted curves, with one panel for each architecture and data set."""
    dashes = {"PGD": "-", "first order": "--", "mean field": ":"}
    colours = {"standard": COLOURS[0], "adversarial": COLOURS[1]}
    data = list(dict.fromkeys(row["data"] for row in networks))
    architectures = list(dict.fromkeys(row["architecture"] for row in networks))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3 * len(architectures), 2.5 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(architectures), sharey=True, squeeze=False)
        for row in networks:
            if row["training"] not in colours:
                continue
            axes = panels[data.index(row["data"]), architectures.index(row["architecture"])]
            grid = np.array(row["epsilons"])
            for kind, dash in dashes.items():
                rate = np.array(row["flip_rates"][kind])
                axes.plot(255 * grid[rate > 0], rate[rate > 0], color=colours[row["training"]], linestyle=dash, lw=1.3)
            axes.set(xscale="log", yscale="log", title=f"{row['data']} {row['architecture']}")
            plain_ticks(axes.xaxis)
            axes.tick_params(axis="x", labelsize=8)
        for axes in panels[-1]:
            axes.set_xlabel("epsilon, in 1/255 (L∞)")
        for axes in panels[:, 0]:
            axes.set_ylabel("flip rate")
        handles = [mpl.lines.Line2D([], [], color=colour, label=f"{name} training") for name, colour in colours.items()]
        handles += [mpl.lines.Line2D([], [], color="black", linestyle=dash, label=name) for name, dash in dashes.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
        figure.savefig(file, dpi=100)


def report_text(analysis: dict) -> str:
    """Returns a summary of the results, in a few lines."""

    def spread_text(spread: dict) -> str:
        return f"{spread['median']:.2f} ({spread['tenth']:.2f} to {spread['ninth_tenth']:.2f} in 80 %)"

    lines = [
        f"density of the nearest difference at zero, times its mean: {spread_text(analysis['density_at_zero'])}; "
        f"of independent logits {spread_text(analysis['density_at_zero_independent'])}",
        f"exponent of the share of differences near zero (1 if the density is finite there): "
        f"{spread_text(analysis['exponent_near_zero']) if analysis['exponents_fitted'] else 'none fitted'}; "
        f"{analysis['exponent_intervals_that_hold_1']} of {analysis['exponents_fitted']} intervals contain 1",
        f"distance of shapes: to independent logits {spread_text(analysis['distance_to_independent'])}, between networks "
        f"{spread_text(analysis['distance_between_networks'])}; by chance {spread_text(analysis['distance_by_chance'])}",
    ]
    for kind, ratios in analysis["predicted_over_measured_epsilon"].items():
        at = ", ".join(f"{share}: {spread_text(spread)}" for share, spread in ratios.items() if spread)
        lines.append(f"epsilon predicted by {kind} / epsilon of PGD at a flip rate of {at}")
    for name, entry in analysis["training"].items():
        moves = ", ".join(f"{row['epoch']}: {row['distance_to_last']:.2f}" for row in entry["epochs"])
        density = ", ".join(f"{row['density_at_zero']:.2f}" for row in entry["epochs"])
        lines.append(
            f"{name}: distance to the shape after training, by epoch {moves}; by chance {entry['by_chance']:.2f}; density "
            f"at zero, times the mean: {density}"
        )
    return "\n".join(lines)


def main() -> None:
    """Trains and measures the networks, and writes the analysis and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    networks = lab.parallel_map(
        measure, [(options.size, s, options.out) for s in network_specs(options.size)], options.workers, "networks"
    )
    tracked = [spec for spec in TRACKED_NETWORKS if options.size != "smoke" or spec.data == "digits"]
    rows = lab.parallel_map(
        measure_epochs, [(options.size, s, options.out) for s in tracked], options.workers, "over training"
    )
    courses = {f"{s.data} {s.training}": row for s, row in zip(tracked, rows, strict=True)}
    analysis = analyse(networks, courses)
    lab.write_json(
        options.out / "logit_differences.json", {"analysis": analysis, "networks": [_summary_row(row) for row in networks]}
    )
    draw_shapes(networks, options.out / "logit_differences_shapes.png")
    draw_training(courses, options.out / "logit_differences_training.png")
    draw_predictions(networks, options.out / "logit_differences_predictions.png")
    print(report_text(analysis))


if __name__ == "__main__":
    lab.run(main)
