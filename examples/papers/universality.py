"""Is adversarial error the same power law of epsilon for all networks, data sets and attacks?

Claim (Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846): yes, for linear models, deep
networks, adversarially trained networks and networks trained on shuffled labels, on MNIST, CIFAR-10, ImageNet and random
data, for FGSM, step l.l. and PGD.

Method: measure four architectures, four data sets, three kinds of training and three attacks. For each combination, compute
the flip rate on a grid of epsilons adapted to the network. Fit a power law with a bootstrap interval, or give the reason why
none is fitted. Then analyse the variance of the exponents, its factors, and the correlation of the exponents with the clean
error.

    python examples/papers/universality.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import numpy as np
from lab import ARCHITECTURES, DATA, SIZES, TRAININGS, NetworkSpec, format_correlation
from matplotlib.figure import Figure
from scipy.stats import wilcoxon

from evaluators import FGSM, PGD, Linf, NoPowerLaw, StepLL, error_curve, fit_power_law, margins, radii, rank_correlation
from evaluators.logits.margin import adaptive_epsilons
from evaluators.statistics.heterogeneity import Observation, heterogeneity
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

    from evaluators import PowerLaw

ATTACKS = {"fgsm": FGSM(), "step_ll": StepLL(), "pgd": PGD(steps=10)}
FACTORS = ("architecture", "data", "training")
POINTS = 18
DASHES = ("-", "--", ":")
# Curves are rescaled so that they overlap at this flip rate.
ANCHOR = 0.1


def network_specs(size: str) -> list[NetworkSpec]:
    """Returns the networks of a size. Random images have no shuffled variant, because their labels are already random."""
    specs = [
        NetworkSpec(data, architecture, training)
        for data, architecture, training in product(DATA, ARCHITECTURES, TRAININGS)
        if not (data == "random" and training == "shuffled")
    ]
    return specs if size != "smoke" else [spec for spec in specs if spec.data in ("digits", "random")]


def measure(name: str, spec: NetworkSpec, folder: Path) -> dict:
    """Returns the error curves and power laws of one network."""
    return lab.cached_json(folder / "networks" / f"{spec.name}.json", _measure, name, spec, folder.parent)


def _measure(name: str, spec: NetworkSpec, work: Path) -> dict:
    network, split = lab.load_or_train(spec, SIZES[name], work)
    logit_margins = margins(network, split.x, split.y, [Linf()], classes=3)
    grid = adaptive_epsilons(logit_margins.radii["linf"], 1.0, POINTS)
    attacks = {}
    for attack_name, attack in ATTACKS.items():
        sizes = radii(network, split.x, split.y, attack, grid).numpy()
        curve, law = error_curve(sizes, grid), fit_power_law(sizes, grid)
        attacks[attack_name] = {
            "flip_rate": [round(float(rate), 6) for rate in curve.flip_rate],
            "anchor": _anchor(np.array(grid), curve.flip_rate),
            "law": asdict(law) if law.fit == "accepted" else {"reason": _reason(law)},
        }
    return {
        **asdict(spec),
        "images": len(split.x),
        "right": int(logit_margins.right.sum()),
        "clean_error": float(1 - logit_margins.right.mean()),
        "epsilons": grid,
        "attacks": attacks,
    }


def _anchor(grid: np.ndarray, rate: np.ndarray) -> float | None:
    """Returns the epsilon at which the flip rate reaches ANCHOR, by log-log interpolation; None outside the grid."""
    above = np.flatnonzero(rate >= ANCHOR)
    if not len(above) or above[0] == 0 or rate[above[0] - 1] <= 0:
        return None
    high = above[0]
    share = math.log(ANCHOR / rate[high - 1]) / math.log(rate[high] / rate[high - 1])
    return float(grid[high - 1] * (grid[high] / grid[high - 1]) ** share)


def analyse(networks: list[dict]) -> dict:
    """Returns the heterogeneity of the exponents, overall and within each attack, kind of training and data set."""
    entries = [(row, attack, entry["law"]) for row in networks for attack, entry in row["attacks"].items()]
    laws = [(row, attack, law) for row, attack, law in entries if "exponent" in law]
    observations = [
        Observation(
            law["exponent"],
            tuple(law["exponent_interval"]),
            {name: row[name] for name in FACTORS} | {"attack": attack},
            subject=" ".join(row[name] for name in FACTORS),
        )
        for row, attack, law in laws
    ]
    groups = {"all": observations}
    for factor in ("attack", "training", "data"):
        for level in dict.fromkeys(o.factors[factor] for o in observations):
            groups[f"{factor} {level}"] = [o for o in observations if o.factors[factor] == level]
    return {
        "curves": len(entries),
        "laws": len(laws),
        "saturated": sum(law["saturated"] for _, _, law in laws),
        "no_law": dict(Counter(_failure_kind(law["reason"]) for _, _, law in entries if "reason" in law)),
        "collapse": _curve_spread(networks),
        "windows": fit_windows(networks),
        "within_networks": {attack: exponents_relative_to_fgsm(networks, attack) for attack in ATTACKS if attack != "fgsm"},
        "with_clean_error": {attack: _with_clean_error(laws, attack) for attack in ATTACKS},
        "with_clean_error_within": {
            data: {attack: _with_clean_error([one for one in laws if one[0]["data"] == data], attack) for attack in ATTACKS}
            for data in dict.fromkeys(row["data"] for row in networks)
        },
        "exponents": {name: asdict(heterogeneity(group)) for name, group in groups.items() if len(group) > 1},
    }


def _reason(law: PowerLaw | NoPowerLaw) -> str:
    """Returns the reason why a curve has no accepted power law."""
    return law.reason if isinstance(law, NoPowerLaw) else f"the fit is rejected, p = {law.p_value:.2g}"


def _with_clean_error(laws: list[tuple[dict, str, dict]], attack: str) -> dict | None:
    """Returns the rank correlation of exponents with clean errors over networks; None for fewer than two networks."""
    chosen = [(row["clean_error"], law["exponent"]) for row, name, law in laws if name == attack]
    if len(chosen) < 2:
        return None
    return asdict(rank_correlation([clean for clean, _ in chosen], [exponent for _, exponent in chosen]))


def _failure_kind(reason: str) -> str:
    return "too few flips" if "a fit needs" in reason else "too steep" if "steep" in reason else "does not fit"


def fit_windows(networks: list[dict]) -> dict:
    """Returns the widths of the windows of the power laws in decades, and the flip rates at their upper ends."""
    decades, rates = [], []
    for row, attack in product(networks, ATTACKS):
        entry = row["attacks"][attack]
        if "window" in entry["law"]:
            low, high = entry["law"]["window"]
            decades.append(math.log10(high / low))
            rates.append(float(np.interp(math.log(high), np.log(row["epsilons"]), entry["flip_rate"])))
    return {
        "decades_median": float(np.median(decades)) if decades else None,
        "decades_most": max(decades, default=None),
        "under_a_decade": sum(decade < 1 for decade in decades),
        "flip_rate_at_the_end_median": float(np.median(rates)) if rates else None,
    }


def exponents_relative_to_fgsm(networks: list[dict], attack: str) -> dict | None:
    """Returns the ratio of exponents under an attack and under FGSM, over the networks that have both exponents.

    Returns None for fewer than two such networks.
    """
    pairs = [[row["attacks"][name]["law"].get("exponent") for name in (attack, "fgsm")] for row in networks]
    ratios = np.log([one / other for one, other in pairs if one and other])
    if len(ratios) < 2:
        return None
    return {
        "networks": len(ratios),
        "mean_ratio": math.exp(ratios.mean()),
        "range": [math.exp(ratios.min()), math.exp(ratios.max())],
        "p_value": float(wilcoxon(ratios).pvalue) if ratios.any() else 1.0,
    }


def _curve_spread(networks: list[dict]) -> dict[str, float]:
    """Returns the standard deviation of ln(flip rate) over the curves, at multiples of the epsilon at ANCHOR."""
    spread = {}
    for multiple in (0.125, 0.25, 0.5, 2.0, 4.0, 8.0):
        values = []
        for row in networks:
            for entry in row["attacks"].values():
                rate, grid = np.array(entry["flip_rate"]), np.array(row["epsilons"])
                at, seen = multiple * (entry["anchor"] or math.nan), rate > 0
                if seen.any() and grid[seen].min() <= at <= grid.max():
                    values.append(np.interp(math.log(at), np.log(grid[seen]), np.log(rate[seen])))
        if len(values) > 1:
            spread[f"{multiple:g}"] = float(np.std(values, ddof=1))
    return spread


def draw_curves(networks: list[dict], file: Path) -> None:
    """Plots all curves without rescaling, one panel for each attack and data set."""
    data = list(dict.fromkeys(row["data"] for row in networks))
    colours, dashes = dict(zip(ARCHITECTURES, COLOURS, strict=False)), dict(zip(TRAININGS, DASHES, strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3 * len(data), 7.6), layout="constrained")
        panels = figure.subplots(len(ATTACKS), len(data), sharey=True, sharex="col", squeeze=False)
        for row in networks:
            for line, (attack, entry) in zip(panels, row["attacks"].items(), strict=True):
                axes = line[data.index(row["data"])]
                grid, rate = 255 * np.array(row["epsilons"]), np.array(entry["flip_rate"])
                style = {"color": colours[row["architecture"]], "linestyle": dashes[row["training"]], "linewidth": 1.1}
                axes.plot(grid[rate > 0], rate[rate > 0], **style)
                axes.set(xscale="log", yscale="log")
                axes.set_title(f"{row['data']}, {attack.replace('_', ' ')}", fontsize=10)
        for axes in panels[-1]:
            axes.set_xlabel("epsilon, in 1/255 (L∞)")
        for axes in panels[:, 0]:
            axes.set_ylabel("flip rate")
        _legend(figure, colours, dashes)
        figure.savefig(file, dpi=100)


def draw_rescaled(networks: list[dict], file: Path) -> None:
    """Plots all curves rescaled to overlap at ANCHOR: all on the left, and by training on the right."""
    colours = dict(zip(dict.fromkeys(row["data"] for row in networks), COLOURS, strict=False))
    dashes = dict(zip(ATTACKS, DASHES, strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        panels = figure.subplot_mosaic([["all", "all", name] for name in TRAININGS], sharex=True, sharey=True)
        for row, attack in product(networks, ATTACKS):
            entry = row["attacks"][attack]
            if not entry["anchor"]:
                continue
            grid, rate = np.array(row["epsilons"]) / entry["anchor"], np.array(entry["flip_rate"])
            for axes in (panels["all"], panels[row["training"]]):
                style = {"color": colours[row["data"]], "linestyle": dashes[attack], "alpha": 0.6, "linewidth": 0.9}
                axes.plot(grid[rate > 0], rate[rate > 0], **style)
        line = np.array([0.03, 4])
        passing = sum(bool(row["attacks"][attack]["anchor"]) for row, attack in product(networks, ATTACKS))
        for name, axes in panels.items():
            axes.plot(line, ANCHOR * line, color="black", linewidth=2, alpha=0.6)
            axes.set(xscale="log", yscale="log", xlim=(0.03, 30), ylim=(8e-4, 1.3))
            title = f"the {passing} curves that pass {ANCHOR:g}; black: exponent 1"
            axes.set_title(title if name == "all" else f"{name} training", fontsize=10)
            axes.set_ylabel("flip rate")
            axes.tick_params(labelleft=True)
        for name in ("all", TRAININGS[-1]):
            panels[name].set_xlabel(f"epsilon / epsilon at a flip rate of {ANCHOR:g}")
        _legend(figure, colours, dashes)
        figure.savefig(file, dpi=100)


def _legend(figure: Figure, colours: dict[str, str], dashes: dict[str, str]) -> None:
    handles = [mpl.lines.Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles += [
        mpl.lines.Line2D([], [], color="black", linestyle=dash, label=name.replace("_", " "))
        for name, dash in dashes.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)


def draw_exponents(networks: list[dict], file: Path) -> None:
    """Plots every exponent with its interval, grouped by data and training."""
    groups = list(dict.fromkeys((row["data"], row["training"]) for row in networks))
    colours, marks = dict(zip(ARCHITECTURES, COLOURS, strict=False)), dict(zip(ATTACKS, "os^", strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots()
        for place, group in enumerate(groups):
            rows = [row for row in networks if (row["data"], row["training"]) == group]
            laws = [
                (row, a, row["attacks"][a]["law"]) for row in rows for a in ATTACKS if "exponent" in row["attacks"][a]["law"]
            ]
            for number, (row, attack, law) in enumerate(laws):
                at = place + 0.8 * (number + 0.5) / len(laws) - 0.4
                colour = colours[row["architecture"]]
                axes.plot([at, at], law["exponent_interval"], color=colour, linewidth=1, alpha=0.6)
                axes.plot(at, law["exponent"], marks[attack], color=colour, markersize=4)
        axes.axhline(1, color="black", linewidth=1, alpha=0.5)
        without = [
            sum(
                "reason" in row["attacks"][a]["law"]
                for row in networks
                for a in ATTACKS
                if (row["data"], row["training"]) == g
            )
            for g in groups
        ]
        labels = [f"{data}\n{training}\n{n or 'none'} without" for (data, training), n in zip(groups, without, strict=True)]
        axes.set_xticks(range(len(groups)), labels, fontsize=8)
        axes.set(ylabel="exponent, with 95 % interval", yscale="log", xlim=(-0.6, len(groups) - 0.4))
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if low < tick < high])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        handles = [mpl.lines.Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        handles += [
            mpl.lines.Line2D([], [], color="black", marker=m, linestyle="", label=n.replace("_", " "))
            for n, m in marks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
        figure.savefig(file, dpi=110)


def report_text(analysis: dict) -> str:
    """Returns a summary of the results, in a few lines."""
    every = analysis["exponents"]["all"]
    low, high = every["mean_interval"]
    p_value = every["heterogeneity_p"]
    equal = f"= {p_value:.2g}" if p_value > 1e-99 else "below 1e-99"
    lines = [
        f"{analysis['laws']} of {analysis['curves']} curves have a power law in a window ({analysis['saturated']} bend "
        "above it); " + ", ".join(f"{count} {reason}" for reason, count in analysis["no_law"].items()),
        f"{every['n']} exponents of {every['subjects']} networks: mean {every['mean']:.2f} ({low:.2f} to {high:.2f}); they "
        f"range from {every['range'][0]:.2f} to {every['range'][1]:.2f} and spread by a factor of "
        f"{math.exp(every['deviation']):.2f} (one standard deviation), networks by {math.exp(every['between']):.2f} without "
        f"estimation error (hypothesis of equal exponents: p {equal})",
    ]
    for name, effect in every["effects"].items():
        means = ", ".join(f"{level} {mean:.2f}" for level, mean in effect["means"].items())
        lines.append(f"{name}: {100 * effect['share']:.0f} % of the variance (p = {effect['p_value']:.2g}); {means}")
    for attack, one in analysis["within_networks"].items():
        if one is not None:
            lines.append(
                f"on {one['networks']} networks with both, exponents under {attack} are {one['mean_ratio']:.2f} times "
                f"those under fgsm ({one['range'][0]:.2f} to {one['range'][1]:.2f}; Wilcoxon, p = {one['p_value']:.2g})"
            )
    windows = analysis["windows"]
    if windows["decades_median"] is not None:
        lines.append(
            f"windows are {windows['decades_median']:.1f} decades wide in the median, {windows['under_a_decade']} of less "
            f"than one; the flip rate at their end is {windows['flip_rate_at_the_end_median']:.2f} in the median"
        )
    with_error = "; ".join(
        f"{attack} {format_correlation(one)}" for attack, one in analysis["with_clean_error"].items() if one
    )
    lines.append(f"rank correlation of the exponent with the clean error: {with_error}")
    return "\n".join(lines)


def main() -> None:
    """Trains and measures the networks, and writes the analysis and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    jobs = [(options.size, spec, options.out) for spec in network_specs(options.size)]
    networks = lab.parallel_map(measure, jobs, options.workers, "networks")
    analysis = analyse(networks)
    lab.write_json(options.out / "universality.json", {"analysis": analysis, "networks": networks})
    draw_curves(networks, options.out / "universality_curves.png")
    draw_rescaled(networks, options.out / "universality_rescaled.png")
    draw_exponents(networks, options.out / "universality_exponents.png")
    print(report_text(analysis))


if __name__ == "__main__":
    lab.run(main)
