"""How far from an image are the decision boundaries, how many are there, and how linear is the margin up to them?

Claim (Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
Uncertainty Regions", arXiv:2107.00003): the response surface (the output of a network over the space of images) shows the
classification boundary. The measurements are ours.

Method: compare a network with standard training and one with adversarial training. For one image, draw maps of class, margin
and confidence in three planes. The first is spanned by an adversarial and a random direction, the second by two adversarial
directions, and the third goes through three images. Draw lines from the image through the adversarial image and beyond,
with every crossing of a decision boundary. For many images, measure the distance to the first crossing in adversarial and
random directions, the number of crossings per line, and the linearity of the margin.

    python examples/papers/surfaces.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import numpy as np
from lab import SIZES, NetworkSpec, attack_at_smallest_epsilon, correctly_classified, plain_ticks
from matplotlib.figure import Figure
from matplotlib.image import imread

from evaluators import L2, PGD
from evaluators.attacks import margin
from evaluators.logits.differences import logits_of
from evaluators.surface import Segment, adversarial_direction, boundary_line, random_direction
from nas.analysis.surface.config import SurfaceConfig
from nas.analysis.surface.figures import draw_lines, draw_surface
from nas.analysis.surface.surface import surfaces_of
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from evaluators.surface import BoundaryLine
    from nas.analysis.surface.result import ImageSurfaces
    from nas.data import Split

TRAININGS = ("standard", "adversarial")
ATTACK = PGD(norm=L2(), loss=margin, steps=20)
# L2 radii in pixel units, from below the smallest adversarial perturbation to above the largest.
GRID = tuple(0.1 * 2 ** (k / 2) for k in range(13))
# Standard deviation of noise whose L2 norm is the length of the lines.
LINE_NOISE = 0.5
# Number of points from the clean image to twice the adversarial perturbation.
NEAR_POINTS = 41


@dataclass(frozen=True)
class SamplingBudget:
    """Number of samples.

    Attributes:
        images: Number of images with lines.
        random: Number of random directions per image.
        line: Number of points per line.
        side: Number of points per side of a plane.
    """

    images: int
    random: int
    line: int
    side: int


BUDGETS = {
    "smoke": SamplingBudget(8, 2, 61, 21),
    "default": SamplingBudget(50, 5, 241, 61),
    "full": SamplingBudget(500, 10, 961, 121),
}


def network_specs(size: str) -> list[NetworkSpec]:
    """Returns the networks of a size."""
    data = ("digits",) if size == "smoke" else ("mnist", "cifar10")
    return [NetworkSpec(d, "cell", training) for d in data for training in TRAININGS]


def measure(name: str, spec: NetworkSpec, folder: Path) -> dict:
    """Returns the measurements along lines through many images of one network."""
    return lab.cached_json(folder / "lines" / f"{spec.name}.json", _measure, name, spec, folder.parent)


def _measure(name: str, spec: NetworkSpec, work: Path) -> dict:
    budget = BUDGETS[name]
    network, split = lab.load_or_train(spec, SIZES[name], work)
    x, y = correctly_classified(network, split, budget.images)
    shared = {**asdict(spec), "right": len(x), "reach": LINE_NOISE * math.sqrt(split.x[0].numel())}
    if not len(x):
        return {**shared, "fooled": 0, "lines": {"adversarial": [], "random": []}}
    index, points, _ = attack_at_smallest_epsilon(network, x, y, ATTACK, GRID)
    lines: dict[str, list] = {"adversarial": [], "random": []}
    for number, (image, point) in enumerate(zip(index.tolist(), points, strict=True)):
        direction = point - x[image]
        drawn = [
            random_direction(x[image], float(direction.norm()), seed=budget.random * number + k)
            for k in range(budget.random)
        ]
        for kind, steps in (("adversarial", [direction]), ("random", drawn)):
            lines[kind] += [
                line_statistics(network, x[image], int(y[image]), step, shared["reach"], budget.line) for step in steps
            ]
    return {**shared, "fooled": len(index), "lines": lines}


def line_statistics(
    network: nn.Module, image: Tensor, label: int, direction: Tensor, max_distance: float, points: int
) -> dict:
    near = boundary_line(network, image, label, direction, segment=Segment(points=NEAR_POINTS))
    parts = [near]
    if 2 * near.length < max_distance:  # The first segment has a finer grid near the image.
        parts.append(
            boundary_line(
                network, image, label, direction, segment=Segment(start=2 * near.length, stop=max_distance, points=points)
            )
        )
    crossings = [crossing for part in parts for crossing in part.crossings if crossing.position <= max_distance]
    limit = min(_pixel_range_exit(part) for part in parts)
    half = near.positions <= near.length * (1 + 1e-9)
    slope = (near.margin[1] - near.margin[0]) / (near.positions[1] - near.positions[0])
    first = crossings[0].position if crossings else None
    return {
        "length": near.length,
        "first": first,
        "first_in_range": first is not None and first <= limit,
        "crossings": len(crossings),
        "crossings_in_range": sum(crossing.position <= limit for crossing in crossings),
        "returns": any(crossing.after == label for crossing in crossings),
        "r_squared": _r_squared(near.positions[half], near.margin[half]),
        "r_squared_beyond": _r_squared(near.positions, near.margin),
        # Position of the boundary that the slope at the clean image predicts.
        "first_order": float(-near.margin[0] / slope) if slope < 0 else None,
        "profile": [float(f"{value:.4g}") for value in near.margin / near.margin[0]],
    }


def _pixel_range_exit(line: BoundaryLine) -> float:
    outside = np.flatnonzero(~line.inside)
    return float(line.positions[outside[0]]) if len(outside) else math.inf


def _r_squared(at: np.ndarray, values: np.ndarray) -> float:
    """Returns R squared of a linear fit of the values, which is the explained share of their variance."""
    rest = values - np.polyval(np.polyfit(at, values, 1), at)
    total = ((values - values.mean()) ** 2).sum()
    return float(1 - (rest**2).sum() / total) if total > 0 else 1.0


def draw_planes(name: str, data: str, folder: Path) -> dict:
    """Draws the planes and lines through one image of a data set and returns their numbers."""
    return lab.cached_json(folder / "pictures" / f"{data}.json", _draw_planes, name, data, folder)


def _draw_planes(name: str, data: str, folder: Path) -> dict:
    networks = {}
    for training in TRAININGS:
        networks[training], test = lab.load_or_train(NetworkSpec(data, "cell", training), SIZES[name], folder.parent)
    predictions = [logits_of(network, test.x).argmax(1) for network in networks.values()]
    labels = test.y.cpu().numpy()
    right = np.flatnonzero(np.all([answer == labels for answer in predictions], axis=0))
    # The three images have different classes, so that the plane through them shows three classes.
    chosen = [int(right[labels[right] == label][0]) for label in dict.fromkeys(labels[right].tolist())]
    if len(chosen) < 3:
        return {"reason": "fewer than three classes have an image that both networks classify rightly"}
    surfaces = {}
    for training, network in networks.items():
        config = _config(network, test, chosen, BUDGETS[name].side)
        if config is None:
            return {"reason": f"the attack does not fool the network with {training} training on image {chosen[0]}"}
        classes = tuple(map(str, range(10)))
        surfaces[training] = surfaces_of(network, test, config, network_name=training, data_name=data, classes=classes)
    for plane in dict.fromkeys(plane for one in surfaces.values() for plane in one.surfaces):
        # All surfaces are passed to each drawing, so that a class has the same colour in all of them.
        shown = {training: f"{training}, {plane}" for training in surfaces if plane in surfaces[training].surfaces}
        pictures = {
            training: draw_surface(_with_all_surfaces(surfaces, training), entry, "png") for training, entry in shown.items()
        }
        _stack_pictures(pictures, folder / f"surfaces_{data}_{plane}.png")
    pictures = {training: draw_lines(_with_all_surfaces(surfaces, training, lines=True), "png") for training in surfaces}
    _stack_pictures(pictures, folder / f"surfaces_{data}_lines.png")
    return {
        "image": chosen[0],
        "others": chosen[1:3],
        "label": int(labels[chosen[0]]),
        "networks": {
            training: {
                "margin": one.margin,
                "confidence": one.confidence,
                "epsilon": one.config.epsilon,
                "leads": {to: asdict(lead) for to, lead in one.endpoints.items()},
                "crossings": {to: [asdict(crossing) for crossing in line.crossings] for to, line in one.lines.items()},
                "notes": one.notes,
            }
            for training, one in surfaces.items()
        },
    }


def _config(network: nn.Module, test: Split, chosen: list[int], side: int) -> SurfaceConfig | None:
    """Returns the settings with twice the smallest successful epsilon, to leave room for a second direction.

    Returns None if the attack succeeds at no epsilon.
    """
    image = chosen[0]
    for epsilon in GRID:
        if adversarial_direction(network, test.x[image], int(test.y[image]), ATTACK, epsilon) is not None:
            others = (chosen[1], chosen[2])
            return SurfaceConfig(image=image, attack=ATTACK, epsilon=2 * epsilon, points=side, others=others)
    return None


def _with_all_surfaces(by_training: dict[str, ImageSurfaces], training: str, *, lines: bool = False) -> ImageSurfaces:
    surfaces = {f"{t}, {plane}": surface for t, one in by_training.items() for plane, surface in one.surfaces.items()}
    return replace(by_training[training], surfaces=surfaces, lines=by_training[training].lines if lines else {})


def _stack_pictures(pictures: dict[str, bytes], file: Path) -> None:
    pixels = [imread(io.BytesIO(pixels_of_picture), format="png") for pixels_of_picture in pictures.values()]
    heights = [len(pixels_of_picture) for pixels_of_picture in pixels]
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(pixels[0].shape[1] / 150, (sum(heights) + 60 * len(pixels)) / 150), layout="constrained")
        panels = figure.subplots(len(pixels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, title, pixels_of_picture in zip(panels, pictures, pixels, strict=True):
            axes.imshow(pixels_of_picture)
            axes.set_axis_off()
            axes.set_title(f"{title} training", fontsize=12, loc="left", fontweight="bold")
        figure.savefig(file, dpi=150)


def summarise(networks: list[dict]) -> list[dict]:
    """Returns the quantiles of the measurements, one row for each network."""
    rows = []
    for row in networks:
        lines = row["lines"]
        kinds = {
            kind: {
                "lines": len(group),
                "first_crossing": _quantile_summary(
                    [line["first"] if line["first"] is not None else math.inf for line in group]
                ),
                "without_crossing": sum(line["first"] is None for line in group),
                "first_crossing_in_range": sum(line["first_in_range"] for line in group),
                "crossings": _quantile_summary([line["crossings"] for line in group]),
                "crossings_mean": float(np.mean([line["crossings"] for line in group])) if group else None,
                "crossings_in_range_mean": float(np.mean([line["crossings_in_range"] for line in group])) if group else None,
                "more_than_one_crossing": sum(line["crossings"] > 1 for line in group),
                "returns_to_the_label": sum(line["returns"] for line in group),
                "r_squared": _quantile_summary([line["r_squared"] for line in group]),
                "r_squared_beyond": _quantile_summary([line["r_squared_beyond"] for line in group]),
                "first_over_first_order": _quantile_summary(
                    [line["first"] / line["first_order"] for line in group if line["first"] and line["first_order"]]
                ),
            }
            for kind, group in lines.items()
        }
        rows.append({key: row[key] for key in ("data", "architecture", "training", "right", "fooled", "reach")} | kinds)
    return rows


def _quantile_summary(values: list[float]) -> dict[str, float | None] | None:
    if not values:
        return None
    # No interpolation, because values may be infinite.
    quantiles = np.quantile(values, [0.1, 0.5, 0.9], method="nearest")
    low, median, high = (float(value) if math.isfinite(value) else None for value in quantiles)
    return {"median": median, "tenth": low, "ninth_tenth": high, "n": len(values)}


def draw(networks: list[dict], file: Path) -> None:
    """Plots first crossings, numbers of crossings and margins along adversarial lines, one row for each data set."""
    data = list(dict.fromkeys(row["data"] for row in networks))
    colours, dashes = dict(zip(TRAININGS, COLOURS, strict=False)), {"adversarial": "-", "random": "--"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.6 + 3.4 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), 3, squeeze=False)
        for row in networks:
            first, count, profile = panels[data.index(row["data"])]
            colour = colours[row["training"]]
            for place, (kind, group) in enumerate(row["lines"].items()):
                if not group:
                    continue
                reached = sorted(line["first"] for line in group if line["first"] is not None)
                first.step(
                    [*reached, row["reach"]],
                    [*(np.arange(len(reached)) + 1) / len(group), len(reached) / len(group)],
                    where="post",
                    color=colour,
                    linestyle=dashes[kind],
                )
                shares = np.bincount([min(4, line["crossings"]) for line in group], minlength=5) / len(group)
                shift = 0.2 * (2 * TRAININGS.index(row["training"]) + place - 1.5)
                face = colour if kind == "adversarial" else "white"
                count.bar(np.arange(5) + shift, shares, 0.18, color=face, edgecolor=colour, linewidth=1.2)
            profiles = np.array([line["profile"] for line in row["lines"]["adversarial"]])
            if len(profiles):
                at = np.linspace(0, 2, NEAR_POINTS)
                low, median, high = np.quantile(profiles, [0.1, 0.5, 0.9], axis=0)
                profile.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
                profile.plot(at, median, color=colour)
            first.set(
                title=f"{row['data']}: first crossing, in range or not",
                xlabel="L2 distance (pixels in [0, 1])",
                xscale="log",
                xlim=(0.01, 1.1 * row["reach"]),
            )
            plain_ticks(first.xaxis)
            first.set(ylabel="share of lines that have crossed", ylim=(0, 1.02))
            count.set(
                title=f"{row['data']}: crossings, in range or not",
                xlabel=f"crossings within an L2 distance of {row['reach']:.1f}",
            )
            count.set(ylabel="share of lines", ylim=(0, 1.02))
            count.set_xticks(range(5), ["0", "1", "2", "3", "4 or more"])
            profile.axhline(0, color="black", linewidth=0.8)
            profile.set(
                title=f"{row['data']}: margin, adversarial lines",
                xlabel="position (0: clean image, 1: adversarial)",
                ylim=(-3, 1.3),
            )
            profile.set(ylabel="margin / that of the clean image", xlim=(0, 2))
        handles = [mpl.lines.Line2D([], [], color=colour, label=f"{name} training") for name, colour in colours.items()]
        handles += [
            mpl.lines.Line2D([], [], color="black", linestyle=dash, label=f"{kind} direction")
            for kind, dash in dashes.items()
        ]
        handles += [
            mpl.patches.Patch(facecolor=face, edgecolor="black", label=f"{kind} direction")
            for kind, face in (("adversarial", "black"), ("random", "white"))
        ]
        handles.append(mpl.patches.Patch(facecolor="black", alpha=0.2, label="eight images of ten"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
        figure.savefig(file, dpi=110)


def report_text(rows: list[dict]) -> str:
    """Returns a summary of the results, a few lines for each network."""

    def spread_text(spread: dict | None, beyond: str = "beyond the lines") -> str:
        if spread is None:
            return "none"
        low, median, high = (
            beyond if spread[key] is None else f"{spread[key]:.3g}" for key in ("tenth", "median", "ninth_tenth")
        )
        return f"{median} ({low} to {high} in 80 %)"

    lines = []
    for row in rows:
        near, far = row["adversarial"], row["random"]
        lines.append(
            f"{row['data']}, {row['training']} training: the attack fools the network on {row['fooled']} of {row['right']} "
            f"correctly classified images. Lines that cross a boundary within the pixel range [0, 1]: "
            f"{near['first_crossing_in_range']} of {near['lines']} adversarial ones, {far['first_crossing_in_range']} of "
            f"{far['lines']} random ones"
        )
        if not near["lines"]:
            continue
        lines.append(
            "  without the limit of the pixel range, the first crossing is at an L2 distance of "
            f"{spread_text(near['first_crossing'])} along the adversarial direction and of "
            f"{spread_text(far['first_crossing'])} along random directions; "
            f"{far['without_crossing']} random lines have no crossing within {row['reach']:.1f}"
        )
        lines.append(
            f"  crossings per line: {near['crossings_mean']:.2f} adversarial ({near['crossings_in_range_mean']:.2f} of them "
            f"in the pixel range), {far['crossings_mean']:.2f} random ({far['crossings_in_range_mean']:.2f}); lines back to "
            f"the true class: {near['returns_to_the_label']} of {near['lines']} and {far['returns_to_the_label']} of "
            f"{far['lines']}"
        )
        lines.append(
            f"  R squared of the margin up to the adversarial image: {spread_text(near['r_squared'])}, up to twice as far "
            f"{spread_text(near['r_squared_beyond'])}; crossing / crossing predicted by the slope at the clean image: "
            f"{spread_text(near['first_over_first_order'])}"
        )
    return "\n".join(lines)


def main() -> None:
    """Trains and measures the networks, and writes the summary and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    chosen = network_specs(options.size)
    networks = lab.parallel_map(measure, [(options.size, spec, options.out) for spec in chosen], options.workers, "lines")
    data = list(dict.fromkeys(spec.data for spec in chosen))
    pictures = lab.parallel_map(draw_planes, [(options.size, d, options.out) for d in data], options.workers, "planes")
    rows = summarise(networks)
    content = {"summary": rows, "pictures": dict(zip(data, pictures, strict=True))}
    lab.write_json(options.out / "surfaces.json", content)
    draw(networks, options.out / "surfaces.png")
    print(report_text(rows))
    for data_name, picture in zip(data, pictures, strict=True):
        if "reason" in picture:
            print(f"{data_name}: no planes were drawn: {picture['reason']}")


if __name__ == "__main__":
    lab.run(main)
