"""Does a search with adversarial accuracy as reward find more robust networks, and which operations do robust networks have?

Claim (Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846): architecture search by reinforcement
learning, with adversarial accuracy as the reward, finds networks that are more robust to white-box and black-box attacks;
adversarial accuracy correlates with clean accuracy, and weakly with model size.

Method: run `examples/paper_search.yaml` on MNIST and CIFAR-10, at the sizes in `children.py`. By default, images are
averaged over 2x2 pixels (14x14, 16x16). The networks that a search trains are its children. The controller is the PPO policy
that proposes them, and the reward of a child is its adversarial accuracy on validation images. The script has four analyses:

- Rank correlations over all children, and over the random children alone: adversarial accuracy under a one-step attack
  (FGSM) and a many-step attack (PGD) with clean accuracy, parameters and depth. Depth is the largest number of operations,
  without skips, on a path through the searched cells (our definition).
- White-box and black-box errors of the best child, a residual network, the NASNet-A cell and the median random cell. All
  have about the same number of parameters and are trained again.
- Operations and inputs that are more frequent in the best quarter of the children than in the others.
- Rewards of the controller's later children and of random children.

    python examples/papers/architecture_search.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING

import cells
import children
import lab
import matplotlib as mpl
import numpy as np
import rivals
from lab import format_correlation, format_epsilon
from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu

import nas
from evaluators import rank_correlation
from evaluators.statistics.correlation import stronger_correlation
from nas.plots.style import COLOURS, STYLE
from nas.spaces.options import open_space

if TYPE_CHECKING:
    from pathlib import Path

# Metrics at the epsilon of the search, on test images.
REWARDS = {"one step": "one_step@1", "many steps": "many_steps@1"}
# Possible predictors of adversarial accuracy, by axis label, as functions of a child.
PREDICTORS = {
    "clean accuracy on test images": lambda row: 1 - row["test_error"],
    # Measured on other images than adversarial accuracy. On the same images, sampling noise would favour the same networks
    # in both.
    "clean accuracy on validation images": lambda row: 1 - row["validation_error"],
    "parameters": lambda row: row["parameters"],
    "depth": lambda row: row["depth"],
}
# The claims are tested with this predictor, because it is independent of the sampling of test images.
MAIN_PREDICTOR = "clean accuracy on validation images"
GROUPS = {"all": "all children", "random": "those drawn at random"}
SHOWN_PREDICTORS = ("clean accuracy on test images", "parameters", "depth")


def analyse(data: str, rows: list[dict], networks: list[dict], out: Path) -> dict:
    """Returns the analysis of a search: its children, its controller and its best child.

    Args:
        data: Name of the data set.
        rows: Children, as `children.read_children` returns them.
        networks: The best child and its rivals, as `rivals.measure` returns them.
        out: Output folder.
    """
    space = open_space(nas.read_run(children.run_folder(data, out), trust=True).config.space, trust=True)
    return {
        "data": data,
        "search": children.search_settings(data, out),
        "children": len(rows),
        "correlations": {name: correlations(group) for name, group in children.child_groups(rows).items()},
        "weaker_with_size": {name: size_and_accuracy_compared(group) for name, group in children.child_groups(rows).items()},
        "controller": compare_controller(rows),
        "shared": cells.compare_best(
            space, [row["architecture"] for row in rows], [row["adversarial_error"] for row in rows]
        ),
        "networks": [
            {name: value for name, value in row.items() if name != "radii"} | {"errors": rivals.error_rates(row)}
            for row in networks
        ],
        "tests": rivals.mcnemar_tests(networks),
    }


def correlations(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """Returns the rank correlation of adversarial accuracy with each predictor, by attack."""
    return {
        attack: {
            name: asdict(rank_correlation([value(row) for row in rows], [1 - row[reward] for row in rows]))
            for name, value in PREDICTORS.items()
        }
        for attack, reward in REWARDS.items()
    }


def size_and_accuracy_compared(rows: list[dict]) -> dict[str, dict]:
    """Returns the absolute rank correlation of adversarial accuracy with clean accuracy, minus that with parameters."""
    clean, size = ([PREDICTORS[name](row) for row in rows] for name in (MAIN_PREDICTOR, "parameters"))
    return {
        attack: asdict(stronger_correlation(clean, size, [1 - row[reward] for row in rows]))
        for attack, reward in REWARDS.items()
    }


def compare_controller(rows: list[dict]) -> dict | None:
    """Compares the errors of the later half of the controller's children with those of the random children.

    Returns None if one of these groups is empty.
    """
    drawn = [row["adversarial_error"] for row in rows if row["random"]]
    proposed = [row["adversarial_error"] for row in rows if not row["random"]]
    late = proposed[len(proposed) // 2 :]
    if not drawn or not late:
        return None
    test = mannwhitneyu(drawn, late, alternative="two-sided")
    return {
        "random": len(drawn),
        "late": len(late),
        "random_median": float(np.median(drawn)),
        "late_median": float(np.median(late)),
        # Share of pairs in which a late child has a smaller adversarial error than a random child. Ties count half.
        "better": float(test.statistic / len(drawn) / len(late)),
        "p_value": float(test.pvalue),
        "best_is_random": min(drawn) <= min(proposed),
    }


def draw_children(analyses: list[dict], rows: dict[str, list[dict]], file: Path) -> None:
    """Plots the adversarial accuracy of each child against its clean accuracy, parameters and depth."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.7 + 3.4 * len(analyses)), layout="constrained")
        panels = figure.subplots(len(analyses), len(SHOWN_PREDICTORS), squeeze=False, sharey="row")
        for line, row in zip(panels, analyses, strict=True):
            data, points = row["data"], rows[row["data"]]
            line[0].set_ylabel(f"{data}: adversarial accuracy\nat {format_epsilon(data, row['search']['epsilon'])} (L∞)")
            for axes, name in zip(line, SHOWN_PREDICTORS, strict=True):
                for colour, reward in zip(COLOURS, REWARDS.values(), strict=False):
                    for drawn, face in ((True, "none"), (False, colour)):
                        chosen = [point for point in points if point["random"] == drawn]
                        x, y = [PREDICTORS[name](point) for point in chosen], [1 - point[reward] for point in chosen]
                        axes.scatter(x, y, s=22, facecolors=face, edgecolors=colour, alpha=0.8)
                by_attack = row["correlations"]["all"]
                texts = [f"{attack}: {format_correlation(by_attack[attack][name])}" for attack in REWARDS]
                axes.set_title("rank correlation\n" + "\n".join(texts), fontsize=9)
                axes.set_xlabel("depth, operations other than skips" if name == "depth" else name)
                if name == "parameters":
                    axes.set_xscale("log")
                    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
                    low, high = (pick(point["parameters"] for point in points) for pick in (min, max))
                    ticks = np.unique(np.geomspace(low, high, 4).round(-2 if high > 1000 else 0))
                    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
                if name == "depth":
                    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        marks = {"marker": "o", "linestyle": ""}
        handles = [mpl.lines.Line2D([], [], color=c, label=name, **marks) for c, name in zip(COLOURS, REWARDS, strict=False)]
        handles += [
            mpl.lines.Line2D([], [], color="black", markerfacecolor="none", label="drawn at random", **marks),
            mpl.lines.Line2D([], [], color="black", label="proposed by the controller", **marks),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
        figure.savefig(file, dpi=110)


def draw_networks(analyses: list[dict], file: Path) -> None:
    """Plots the errors of the best network and its rivals by attack at the epsilon of the search, one bar for each seed."""
    titles = ("clean", *rivals.WHITE_BOX, "white box", *rivals.BLACK_BOX, "black box")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.7 + 3.4 * len(analyses)), layout="constrained")
        panels = figure.subplots(len(analyses), squeeze=False)[:, 0]
        for axes, row in zip(panels, analyses, strict=True):
            epsilon, seeds = row["search"]["epsilon"], 1 + max(network["seed"] for network in row["networks"])
            width = 0.84 / len(rivals.NETWORK_NAMES) / seeds
            for network in row["networks"]:
                number = rivals.NETWORK_NAMES.index(network["name"])
                at = {one["attack"]: one for one in network["errors"] if one["epsilon"] in (0.0, epsilon)}
                places = np.arange(len(titles)) - 0.42 + width * (number * seeds + network["seed"] + 0.5)
                heights = np.array([at[title]["error"] for title in titles])
                ends = np.array([at[title]["interval"] for title in titles]).T
                bars = {"width": 0.9 * width, "color": COLOURS[number], "alpha": 0.75, "ecolor": "black"}
                axes.bar(places, heights, yerr=abs(ends - heights), error_kw={"linewidth": 0.7}, **bars)
            axes.set_xticks(
                range(len(titles)), [f"{t}\n(worst case)" if t in rivals.WORST_CASES else t for t in titles], fontsize=9
            )
            axes.set(
                ylim=(0, 1.12),
                ylabel="error on test images",
                title=f"{row['data']}, {format_epsilon(row['data'], epsilon)} (L∞)",
            )
            axes.set_yticks(np.linspace(0, 1, 6))
            axes.grid(visible=False, axis="x")
            sizes = {network["name"]: network["parameters"] for network in row["networks"]}
            handles = [
                mpl.patches.Patch(facecolor=colour, alpha=0.75, label=f"{name}, {sizes[name]:,} parameters")
                for name, colour in zip(rivals.NETWORK_NAMES, COLOURS, strict=False)
            ]
            axes.legend(handles=handles, fontsize=8, loc="upper left", ncols=4)
        figure.supxlabel("a bar for each seed, with the exact 95 % interval over images", fontsize=9)
        figure.savefig(file, dpi=110)


def draw_operations(analyses: list[dict], file: Path) -> None:
    """Plots the shares of operations and inputs for the best quarter of the children and for the others."""
    columns = list(dict.fromkeys(one["cell"] for one in analyses[0]["shared"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.7 + 4.4 * len(analyses)), layout="constrained")
        panels = figure.subplots(len(analyses), len(columns), squeeze=False, sharey="row")
        for line, row in zip(panels, analyses, strict=True):
            for axes, cell in zip(line, columns, strict=True):
                shown = [one for one in row["shared"] if one["cell"] == cell]
                places = np.arange(len(shown))
                for shift, colour, group in ((-0.2, COLOURS[1], "best"), (0.2, COLOURS[0], "others")):
                    axes.barh(places + shift, [one[group] for one in shown], 0.38, color=colour, alpha=0.75)
                for place, one in enumerate(shown):
                    mark = " *" if one["corrected"] < 0.05 else ""
                    axes.text(
                        max(one["best"], one["others"]) + 0.01,
                        place,
                        f"p {one['p_value']:.2g}{mark}",
                        va="center",
                        fontsize=7,
                    )
                axes.set_yticks(places, [one["name"] for one in shown], fontsize=8)
                axes.set(title=f"{row['data']}, {cell} cell", xlabel="share of the cell's edges")
                axes.set_xlim(0, 1.15 * max(max(one["best"], one["others"]) for one in row["shared"]))
                axes.grid(visible=False, axis="y")
            line[0].invert_yaxis()
        names = ("best quarter by validation adversarial error", "others")
        handles = [
            mpl.patches.Patch(facecolor=colour, alpha=0.75, label=name)
            for colour, name in zip((COLOURS[1], COLOURS[0]), names, strict=True)
        ]
        marked = any(one["corrected"] < 0.05 for row in analyses for one in row["shared"])
        label = "*: below 0.05 corrected for all" if marked else "corrected for all, none is below 0.05"
        handles.append(mpl.lines.Line2D([], [], linestyle="", label=f"p: of this one alone; {label}"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
        figure.savefig(file, dpi=110)


def report_text(analyses: list[dict]) -> str:
    """Returns a summary of the results, a few lines for each search."""
    return "\n".join(line for row in analyses for line in (*_children_lines(row), *_rival_lines(row)))


def _children_lines(row: dict) -> list[str]:
    lines = [
        f"{row['data']}: {row['children']} children; rank correlations of adversarial accuracy, 95 % intervals over children"
    ]
    for group, name in GROUPS.items():
        for attack, entries in row["correlations"][group].items():
            description = "; ".join(f"{predictor} {format_correlation(one)}" for predictor, one in entries.items())
            lines.append(f"  {name}, {attack}: {description}")
    for attack, (group, name) in product(REWARDS, GROUPS.items()):
        comparison = row["weaker_with_size"][group][attack]
        verdict = _verdict(row["correlations"][group][attack][MAIN_PREDICTOR])
        lines.append(
            f"  {attack}, {name}: a positive correlation with {MAIN_PREDICTOR} {verdict}; a weaker correlation with "
            f"parameters {_verdict(comparison)}, the difference of absolute correlations is "
            f"{format_correlation(comparison)}"
        )
    one = row["controller"]
    if one is not None:
        lines.append(
            f"  a child of the controller's later half ({one['late']}) has a smaller validation adversarial error than a "
            f"random child ({one['random']}) in {100 * one['better']:.0f} % of pairs (p = {one['p_value']:.2g}); the best "
            f"child was {'drawn at random' if one['best_is_random'] else 'proposed by the controller'}"
        )
    marked = [entry for entry in row["shared"] if entry["corrected"] < 0.05]
    least = min(row["shared"], key=lambda entry: entry["p_value"])
    description = "; ".join(
        f"{entry['name']} in the {entry['cell']} cell {entry['best']:.2f} against {entry['others']:.2f}"
        for entry in marked or [least]
    )
    if marked:
        return [*lines, f"  shares that differ between the best quarter and the others: {description}"]
    return [
        *lines,
        f"  no significant difference between the best quarter and the others; the largest is {description} "
        f"(p = {least['p_value']:.2g} uncorrected)",
    ]


def _verdict(one: dict) -> str:
    return "is significant" if one["interval"] is not None and one["interval"][0] > 0 else "is not significant"


def _rival_lines(row: dict) -> list[str]:
    lines = []
    sizes = {network["name"]: network["parameters"] for network in row["networks"]}
    for rival in rivals.NETWORK_NAMES[1:]:
        for attack in rivals.WORST_CASES:
            tests = [one for one in row["tests"] if one["rival"] == rival and one["attack"] == attack]
            differences = ", ".join(f"{one['difference']:+.3f} (p = {one['corrected']:.2g})" for one in tests)
            shown = [one["difference"] for one in tests if one["corrected"] < 0.05]
            better, worse = all(d < 0 for d in shown), all(d > 0 for d in shown)
            verdict = (
                "no significant difference" if not shown else "less" if better else "more" if worse else "the seeds disagree"
            )
            lines.append(
                f"  best ({sizes['best']:,} parameters) against {rival} ({sizes[rival]:,}), {attack}: error by seed "
                f"{differences}: {verdict}"
                f"{f' error in {len(shown)} of {len(tests)} seeds' if verdict in ('less', 'more') else ''}"
            )
    return lines


def main() -> None:
    """Runs the searches, trains and attacks the best child and its rivals, and writes the analysis and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    children.search_all(options.size, options.out, options.workers)
    data = children.data_sets(options.size)
    lab.parallel_map(
        rivals.train_transfer_source, [(options.size, d, options.out) for d in data], options.workers, "transfer sources"
    )
    networks = lab.parallel_map(rivals.measure, rivals.jobs(options.size, options.out), options.workers, "networks")
    rows = {d: children.read_children(d, options.out) for d in data}
    analyses = [analyse(d, rows[d], [one for one in networks if one["data"] == d], options.out) for d in data]
    # The radii of every image are in the folder networks.
    lab.write_json(options.out / "architecture_search.json", {"analysis": analyses, "children": rows})
    draw_children(analyses, rows, options.out / "architecture_search_children.png")
    draw_networks(analyses, options.out / "architecture_search_networks.png")
    draw_operations(analyses, options.out / "architecture_search_operations.png")
    print(report_text(analyses))


if __name__ == "__main__":
    lab.run(main)
