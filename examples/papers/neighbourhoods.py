"""Are there infinitely many adversarial images around a clean image, and are they connected?

Claim (Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
Uncertainty Regions", arXiv:2107.00003): a small neighbourhood of a clean image has infinitely many adversarial images. The
method to test this is ours.

Method, around adversarial images: estimate the share of a ball that stays adversarial, by radius, with exact intervals.
Compute a radius within which all images provably keep the wrong class, if the bounds are strong enough. A ball of this
radius is an open set, so it has infinitely many images. The radius at which an attack finds another class is an upper bound
on any proved radius.

Method, around clean images: start an attack many times at the smallest epsilon of a grid at which it succeeds. Count the
distinct adversarial images, measure their distances, and test whether paths inside the ball connect them.

    python examples/papers/neighbourhoods.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import numpy as np
from lab import EPSILONS, SIZES, NetworkSpec, attack_at_smallest_epsilon, correctly_classified
from matplotlib.figure import Figure

from evaluators import PGD, EpsilonGrid, Linf, radii
from evaluators.attacks import margin
from evaluators.bounds import NoBound, provable_radii
from evaluators.logits.differences import logits_of
from evaluators.regions import Sampling, Starts, adversarial_set, ball_shares, connections
from evaluators.regions.voting import mean_interval
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from matplotlib.axes import Axes
    from torch import nn

ARCHITECTURES = ("linear", "mlp", "cell")
TRAININGS = ("standard", "adversarial")
ATTACK = PGD(loss=margin, steps=20)
# Multiples of the epsilon of adversarial training.
EPSILON_MULTIPLES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
RADIUS_MULTIPLES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
# Adversarial images are the last point of an attack run, or the first point that is misclassified.
STOP_WHEN_FOOLED = {"last point of the attack": False, "first misclassified point": True}


@dataclass(frozen=True)
class SampleCounts:
    """Numbers of images, samples and starts.

    Attributes:
        images: Maximum number of correctly classified images to attack. The balls are around the adversarial images.
        samples: Number of points per ball.
        clean: Number of clean images that are attacked from many starts.
        starts: Number of starts per image.
    """

    images: int
    samples: int
    clean: int
    starts: int


BUDGETS = {
    "smoke": SampleCounts(6, 100, 2, 6),
    "default": SampleCounts(30, 500, 10, 24),
    "full": SampleCounts(200, 5000, 100, 32),
}


def network_specs(size: str) -> list[NetworkSpec]:
    """Returns the networks of a size."""
    data = ("digits",) if size == "smoke" else ("digits", "mnist")
    return [NetworkSpec(*entry) for entry in product(data, ARCHITECTURES, TRAININGS)]


def measure(name: str, spec: NetworkSpec, folder: Path) -> dict:
    """Returns the measurements around images of one network."""
    return lab.cached_json(folder / "networks" / f"{spec.name}.json", _measure, name, spec, folder.parent)


def _measure(name: str, spec: NetworkSpec, work: Path) -> dict:
    budget, epsilon = BUDGETS[name], EPSILONS[spec.data]
    network, split = lab.load_or_train(spec, SIZES[name], work)
    x, y = correctly_classified(network, split, budget.images)
    shared = {**asdict(spec), "right": len(x), "epsilon": epsilon}
    if not len(x):
        return {**shared, "balls": None, "sets": []}
    grid = tuple(min(1.0, epsilon * multiple) for multiple in EPSILON_MULTIPLES)
    index, points, sizes = attack_at_smallest_epsilon(network, x, y, ATTACK, grid)
    return {
        **shared,
        "balls": ball_statistics(network, points, y[index], sizes.tolist(), epsilon, budget.samples) if len(index) else None,
        "sets": [
            {
                "image": image,
                "ends": ends,
                "epsilon": size,
                **_adversarial_set_row(network, x[[image]], y[[image]], size, budget.starts, stop),
            }
            for image, size in list(zip(index.tolist(), sizes.tolist(), strict=True))[: budget.clean]
            for ends, stop in STOP_WHEN_FOOLED.items()
        ],
    }


def ball_statistics(
    network: nn.Module, points: torch.Tensor, labels: torch.Tensor, sizes: list[float], epsilon: float, samples: int
) -> dict:
    """Returns the statistics of balls around adversarial images (N, ...) with labels (N,) and epsilons (N,)."""
    grid = [epsilon * multiple for multiple in RADIUS_MULTIPLES]
    shares = ball_shares(network, points, labels, Linf(), grid, sampling=Sampling(samples=samples))
    proof = provable_radii(network, points, Linf())
    wrong = logits_of(network, points).argmax(1)
    search = [epsilon * 2.0**k for k in range(-12, 3)]
    class_change_radii = radii(
        network, points, labels.new_tensor(wrong), ATTACK, EpsilonGrid(epsilons=search, tolerance=0.05)
    )
    return {
        "sizes": sizes,
        "radii": grid,
        "samples": samples,
        "share": shares.share.tolist(),
        "interval": shares.interval.tolist(),
        "mean_share": shares.share.mean(0).tolist(),
        "mean_share_interval": mean_interval(shares.share).tolist(),
        "proved": None if isinstance(proof, NoBound) else proof.radii.tolist(),
        "no_bound": proof.reason if isinstance(proof, NoBound) else None,
        # The radius at which an attack leaves the wrong class. It is an upper bound on every proved radius.
        "attacked": [radius if math.isfinite(radius) else None for radius in class_change_radii.tolist()],
    }


def _adversarial_set_row(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, epsilon: float, starts: int, stop: bool
) -> dict:
    adversarial = adversarial_set(network, x, y, ATTACK, epsilon, starts=Starts(count=starts, stop_when_fooled=stop))
    distinct = len(adversarial.images)
    row = {
        "starts": starts,
        "found": adversarial.successes,
        "distinct": distinct,
        "classes": adversarial.classes if distinct else 0,
    }
    if distinct < 2:
        return {**row, "spread": None, "pairs": 0}
    paths = connections(network, adversarial)
    pairs = np.triu_indices(distinct, 1)
    return {
        **row,
        "spread": adversarial.spread,
        "pairs": len(pairs[0]),
        "straight": int(paths.straight[pairs].sum()),
        "same_class": int(paths.same_class[pairs].sum()),
        "bent": int(paths.bent[pairs].sum()),
        "components_by_straight": int(paths.by_straight.max()) + 1,
        "components": int(paths.components.max()) + 1,
    }


def summarise(row: dict) -> dict:
    """Returns the summary of one network."""
    balls = row["balls"]
    summary = {key: row[key] for key in ("data", "architecture", "training", "right", "epsilon")}
    if balls:
        proved = balls["proved"]
        attacked = [math.inf if radius is None else radius for radius in balls["attacked"]]
        share = np.array(balls["share"])
        hole_free = [hole_free_radius(balls["radii"], line) for line in share]
        summary |= {
            "adversarial": len(attacked),
            # Adversarial images within the epsilon of training, and those of them with a proved radius.
            "near": sum(size <= row["epsilon"] for size in balls["sizes"]),
            "near_and_proved": None
            if proved is None
            else sum(size <= row["epsilon"] and radius > 0 for size, radius in zip(balls["sizes"], proved, strict=True)),
            "proved_above_0": None if proved is None else sum(radius > 0 for radius in proved),
            # 1/255 is one step of an 8-bit pixel.
            "proved_above_1_255": None if proved is None else sum(radius >= 1 / 255 for radius in proved),
            "proved_median": None if proved is None else float(np.median(proved)),
            "proved_too_far": None if proved is None else sum(p > a for p, a in zip(proved, attacked, strict=True)),
            "attacked_median": _finite_or_none(np.median(attacked)),
            "whole_median": float(np.median(hole_free)),
            "share_at_epsilon": balls["mean_share"][RADIUS_MULTIPLES.index(1.0)],
            "share_at_epsilon_interval": balls["mean_share_interval"][RADIUS_MULTIPLES.index(1.0)],
        }
    summary["sets"] = {
        ends: _pool_sets([one for one in row["sets"] if one["ends"] == ends and one["found"]]) for ends in STOP_WHEN_FOOLED
    }
    return summary


def hole_free_radius(grid: list[float], share: np.ndarray) -> float:
    """Returns the largest radius up to which the share of every ball is 1. Larger balls beyond a gap do not count."""
    return next((low for low, s in zip([0.0, *grid], share, strict=False) if s < 1), grid[-1])


def _pool_sets(sets: list[dict]) -> dict:
    several = [one for one in sets if one["pairs"]]
    pairs = sum(one["pairs"] for one in several)
    straight, bent = (sum(one[key] for one in several) for key in ("straight", "bent"))
    return {
        "images": len(sets),
        "epsilon_median": float(np.median([one["epsilon"] for one in sets])) if sets else None,
        "starts": sum(one["starts"] for one in sets),
        "found": sum(one["found"] for one in sets),
        "distinct": sum(one["distinct"] for one in sets),
        "distinct_mean": float(np.mean([one["distinct"] for one in sets])) if sets else None,
        "classes_mean": float(np.mean([one["classes"] for one in sets])) if sets else None,
        "spread_mean": float(np.mean([one["spread"] for one in several])) if several else None,
        "pairs": pairs,
        "straight": straight,
        "same_class": sum(one["same_class"] for one in several),
        "bent": bent,
        "straight_share": straight / pairs if pairs else None,
        "joined_share": (straight + bent) / pairs if pairs else None,
        "in_one_component": sum(one["components"] == 1 for one in several),
        "several": len(several),
    }


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def draw_shares(networks: list[dict], file: Path) -> None:
    """Plots the share of balls that stays adversarial against the radius, with proved and attacked radii."""
    data = list(dict.fromkeys(row["data"] for row in networks))
    colours = dict(zip(ARCHITECTURES, COLOURS, strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.8 + 3.3 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(TRAININGS), squeeze=False, sharey=True, sharex="row")
        for row in networks:
            axes = panels[data.index(row["data"]), TRAININGS.index(row["training"])]
            axes.set(title=f"{row['data']}, {row['training']} training", xscale="log", ylim=(0, 1.05))
            axes.set_xlabel("radius of the ball (L∞, pixels in [0, 1])")
            balls, colour = row["balls"], colours[row["architecture"]]
            if not balls:
                continue
            axes.fill_between(
                balls["radii"], *np.array(balls["mean_share_interval"]).T, color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(balls["radii"], balls["mean_share"], marker=".", color=colour)
            proved = np.median(balls["proved"]) if balls["proved"] else 0
            attacked = np.median([math.inf if radius is None else radius for radius in balls["attacked"]])
            style = {"color": colour, "markersize": 8, "linestyle": "", "clip_on": False, "zorder": 5}
            if proved > 0:
                axes.plot(proved, 0.03, "^", **style)
            if math.isfinite(attacked):
                axes.plot(attacked, 0.1, "v", **style)
        for axes in panels[:, 0]:
            axes.set_ylabel("share that is adversarial")
        handles = [mpl.lines.Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        handles += [
            mpl.lines.Line2D([], [], color="black", marker=mark, linestyle="", label=label)
            for mark, label in (
                ("^", "certified radius, median"),
                ("v", "radius at which an attack finds another class, median"),
            )
        ]
        handles.append(mpl.patches.Patch(facecolor="black", alpha=0.15, label="95 % interval of the mean"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
        figure.savefig(file, dpi=110)


def draw_radii(networks: list[dict], file: Path) -> None:
    """Plots the proved radius of each adversarial image against the radius at which an attack finds another class."""
    data = list(dict.fromkeys(row["data"] for row in networks))
    colours, marks = dict(zip(ARCHITECTURES, COLOURS, strict=False)), dict(zip(TRAININGS, "ox", strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(data), 4.8), layout="constrained")
        panels = figure.subplots(1, len(data), squeeze=False, sharex=True, sharey=True)[0]
        ends: list[float] = []
        attacks: list[float] = []
        for row in networks:
            balls = row["balls"]
            if not balls or balls["proved"] is None:
                continue
            both = [(a, p) for a, p in zip(balls["attacked"], balls["proved"], strict=True) if a is not None and p > 0]
            axes = panels[data.index(row["data"])]
            for attacked, proved in both:
                style = {"color": colours[row["architecture"]], "markersize": 4.5, "alpha": 0.7}
                axes.plot(attacked, proved, marks[row["training"]], **style)
                ends += [attacked, proved]
                attacks.append(attacked)
        for axes, title in zip(panels, data, strict=True):
            axes.set(title=title, xlabel="radius at which an attack finds another class (L∞, pixels in [0, 1])")
            if ends:
                axes.set(xscale="log", yscale="log")
                axes.plot([min(attacks), max(ends)], [min(attacks), max(ends)], color="black", linewidth=1, alpha=0.5)
        panels[0].set_ylabel("radius within which the wrong class is proved (L∞)")
        handles = [mpl.lines.Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        handles += [
            mpl.lines.Line2D([], [], color="black", marker=mark, linestyle="", label=f"{name} training")
            for name, mark in marks.items()
        ]
        handles.append(mpl.lines.Line2D([], [], color="black", alpha=0.5, label="equal"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
        figure.savefig(file, dpi=110)


def draw_sets(rows: list[dict], file: Path) -> None:
    """Plots shares of successful starts, of distinct images and of connected pairs, and distances of the images."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 1.6 + 0.3 * len(rows)), layout="constrained")
        panels = figure.subplots(1, len(_COLUMNS), sharey=True)
        for place, row in enumerate(rows):
            for (ends, pooled), marker, colour in zip(row["sets"].items(), "oD", COLOURS, strict=False):
                for axes, value in zip(panels, _column_values(pooled), strict=True):
                    if value is not None:
                        shift = 0.12 if STOP_WHEN_FOOLED[ends] else -0.12
                        axes.plot(value, place + shift, marker, color=colour, markersize=6, clip_on=False, zorder=5)
        for axes, (title, limits) in zip(panels, _COLUMNS.items(), strict=True):
            _label_axis(axes, title, limits)
        panels[0].set_yticks(range(len(rows)), [f"{row['data']} {row['architecture']} {row['training']}" for row in rows])
        panels[0].invert_yaxis()
        handles = [
            mpl.lines.Line2D([], [], color=colour, marker=marker, linestyle="", label=ends)
            for ends, marker, colour in zip(STOP_WHEN_FOOLED, "oD", COLOURS, strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, title="adversarial images")
        figure.savefig(file, dpi=110)


_COLUMNS = {
    "share of starts\nthat succeed": (0, 1),
    "share of distinct\nimages": (0, 1),
    "wrong classes\nper image": (0, None),
    "mean distance of two\n/ epsilon": (0, 2),
    "share of pairs on a\nstraight path": (0, 1),
    "share of pairs on a\nstraight or bent path": (0, 1),
}


def _column_values(pooled: dict) -> tuple[float | None, ...]:
    if not pooled["images"]:
        return (None,) * len(_COLUMNS)
    return (
        pooled["found"] / pooled["starts"],
        pooled["distinct"] / pooled["found"],
        pooled["classes_mean"],
        pooled["spread_mean"],
        pooled["straight_share"],
        pooled["joined_share"],
    )


def _label_axis(axes: Axes, title: str, limits: tuple[float, float | None]) -> None:
    low, high = limits
    axes.set_xlabel(title, fontsize=9)
    axes.set_xlim(low, high)
    axes.margins(x=0.1)


def report_text(rows: list[dict]) -> str:
    """Returns a summary of the results, a few lines for each network."""
    lines = []
    for row in rows:
        name = f"{row['data']} {row['architecture']}, {row['training']} training"
        if "adversarial" not in row:
            lines.append(f"{name}: no adversarial image for {row['right']} images")
            continue
        low, high = row["share_at_epsilon_interval"]
        proof = (
            "no radius is certified"
            if row["proved_above_0"] is None
            else f"certified radius above 0 for {row['proved_above_0']}, at least 1/255 for {row['proved_above_1_255']}, "
            f"median over all {row['proved_median']:.2g}; of the {row['near']} within epsilon {row['epsilon']:g} of their "
            f"clean image, {row['near_and_proved']} have a certified radius above 0"
        )
        attacked = "none" if row["attacked_median"] is None else f"{row['attacked_median']:.2g}"
        lines.append(
            f"{name}, {row['adversarial']} adversarial images: {proof}. Median radius at which an attack finds another "
            f"class: {attacked}. Median radius up to which all sampled points are adversarial: {row['whole_median']:.2g}. "
            f"Mean adversarial share of the ball of radius {row['epsilon']:g}: {100 * row['share_at_epsilon']:.0f} % "
            f"({100 * low:.0f} to {100 * high:.0f})"
        )
        for ends, one in row["sets"].items():
            if not one["images"]:
                lines.append(f"  {ends}: no start succeeds")
                continue
            line = f"  {ends}: {one['distinct']} distinct images from {one['starts']} starts around {one['images']} clean "
            line += f"images, within {one['epsilon_median']:g} (median)"
            if one["pairs"]:
                line += (
                    f", {one['spread_mean']:.2f} epsilon apart; straight paths connect {one['straight']} of {one['pairs']} "
                    f"pairs, bent paths {one['bent']} more; all are connected around {one['in_one_component']} of "
                    f"{one['several']} clean images"
                )
            lines.append(line)
    too_far = sum(row.get("proved_too_far") or 0 for row in rows)
    lines.append(f"proved radii that an attack refutes: {too_far}")
    return "\n".join(lines)


def main() -> None:
    """Trains and measures the networks, and writes the summary and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    jobs = [(options.size, spec, options.out) for spec in network_specs(options.size)]
    networks = lab.parallel_map(measure, jobs, options.workers, "networks")
    rows = [summarise(row) for row in networks]
    lab.write_json(options.out / "neighbourhoods.json", {"summary": rows, "networks": networks})
    draw_shares(networks, options.out / "neighbourhoods_shares.png")
    draw_radii(networks, options.out / "neighbourhoods_radii.png")
    draw_sets(rows, options.out / "neighbourhoods_sets.png")
    print(report_text(rows))


if __name__ == "__main__":
    lab.run(main)
