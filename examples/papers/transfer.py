"""Do adversarial images transfer between networks, and do some of them transfer to all networks?

Claim (Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
Uncertainty Regions", arXiv:2107.00003): the transfer of adversarial images is not universal. An image that fools one network
may not fool another network trained on the same data.

Method: train two seeds of three architectures with standard and adversarial training. Use two attacks and a grid of
epsilons. Every network is a source and a target, on the images that all networks classify correctly. Report the transfer
matrix with counts and intervals, the effects of seed, architecture and training, and the asymmetry. Report the images that
transfer to all networks, to some and to none, against the expectation for independent targets.

    python examples/papers/transfer.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import numpy as np
from lab import EPSILONS, SIZES, NetworkSpec, format_epsilon
from matplotlib.figure import Figure

from evaluators import FGSM, PGD, TransferMatrix, transfer_matrix, transfer_rates
from evaluators.attacks import margin
from evaluators.logits.differences import logits_of
from evaluators.transferability.rates import asymmetry
from evaluators.transferability.universal import universal_transfer
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from nas.data import Split

ARCHITECTURES = ("mlp", "residual", "cell")
TRAINING_ABBREVIATIONS = {"standard": "std", "adversarial": "adv"}
TRAININGS = tuple(TRAINING_ABBREVIATIONS)
SEEDS = (0, 1)
ATTACKS = {"fgsm": FGSM(), "pgd": PGD(loss=margin, steps=10)}
# Multiples of the epsilon of adversarial training.
MULTIPLES = {"smoke": (1.0, 2.0), "default": (0.5, 1.0, 2.0), "full": (0.25, 0.5, 1.0, 2.0, 4.0)}
# The multiple at which the matrix is drawn.
SHOWN_MULTIPLE = 1.0
# Of the first MAX_IMAGES test images, those that all networks classify correctly are used, at least MIN_IMAGES.
MAX_IMAGES = {"smoke": 120, "default": 600, "full": 5000}
MIN_IMAGES = {"smoke": 10, "default": 30, "full": 200}
RESAMPLES = 1000
# If fewer images than this fool the source, the labels in its row are pale.
PALE_BELOW = 10


def network_specs(data: str) -> list[NetworkSpec]:
    """Returns the networks of a data set."""
    return [NetworkSpec(data, *entry) for entry in product(ARCHITECTURES, TRAININGS, SEEDS)]


def data_sets(size: str) -> tuple[str, ...]:
    """Returns the names of the data sets of a size."""
    return ("digits",) if size == "smoke" else ("mnist", "cifar10")


def short_name(spec: NetworkSpec) -> str:
    """Returns the name of a network, unique within its data set."""
    return f"{spec.architecture} {TRAINING_ABBREVIATIONS[spec.training]} {spec.seed}"


def drop_inaccurate(networks: dict[str, nn.Module], split: Split, min_images: int) -> list[str]:
    """Returns the names of the networks that are kept.

    The least accurate network is left out, one at a time, until the kept ones all classify the same `min_images` images
    correctly.
    """
    labels = split.y.cpu().numpy()
    correct = {name: logits_of(network, split.x).argmax(1) == labels for name, network in networks.items()}
    while len(correct) > 1 and np.all(list(correct.values()), axis=0).sum() < min_images:
        correct.pop(min(correct, key=lambda name: int(correct[name].sum())))
    return list(correct)


def measure(name: str, data: str, attack: str, folder: Path) -> dict:
    """Returns the transfer results of one attack between the networks of one data set."""
    return lab.cached_json(folder / "matrices" / f"{data}-{attack}.json", _measure, name, data, attack, folder.parent)


def _measure(name: str, data: str, attack: str, work: Path) -> dict:
    networks, specs = {}, {}
    for spec in network_specs(data):
        networks[short_name(spec)], split = lab.load_or_train(spec, SIZES[name], work)
        specs[short_name(spec)] = spec
    split = split.first(MAX_IMAGES[name])
    names = drop_inaccurate(networks, split, MIN_IMAGES[name])
    shared = {"data": data, "attack": attack, "names": names, "left_out": [n for n in networks if n not in names]}
    if len(names) < 2:
        return {**shared, "reason": f"no two networks classify the same {MIN_IMAGES[name]} images rightly"}
    epsilons = [EPSILONS[data] * multiple for multiple in MULTIPLES[name]]
    matrix = transfer_matrix({n: networks[n] for n in names}, split.x, split.y, ATTACKS[attack], epsilons)
    rates, conditional_rates = transfer_rates(matrix), transfer_rates(matrix, conditional=True)
    return {
        **shared,
        "epsilons": epsilons,
        "given": matrix.given,
        "images": matrix.n,
        # Both are indexed by epsilon, source and target.
        "of_all": _rates_as_lists(rates),
        "of_those_that_fool_the_source": _rates_as_lists(conditional_rates),
        "groups": [
            pooled_transfer(matrix, e, group, pairs)
            for e, (group, pairs) in product(range(len(epsilons)), _pair_groups([specs[n] for n in names]).items())
        ],
        "asymmetry": [
            {
                "first": one.first,
                "second": one.second,
                "epsilon": one.epsilon,
                "difference": one.difference,
                "interval": list(one.interval),
                "p_value": one.p_value,
                "corrected": one.corrected,
            }
            for one in asymmetry(matrix)
        ],
        "reach": universal_transfer_rows(matrix),
        # Without the adversarially trained networks, which are trained to resist such images.
        "reach_among_standard": universal_transfer_rows(
            restrict_networks(matrix, [n for n in names if specs[n].training == "standard"])
        ),
    }


def restrict_networks(matrix: TransferMatrix, names: list[str]) -> TransferMatrix | None:
    """Returns the transfer matrix of a subset of the networks; None for fewer than two."""
    if len(names) < 2:
        return None
    places = [matrix.names.index(name) for name in names]
    return replace(matrix, names=tuple(names), fooled=matrix.fooled[:, places][:, :, places])


def universal_transfer_rows(matrix: TransferMatrix | None) -> list[dict]:
    """Returns the images that transfer to all other networks, to some and to none, one row for each epsilon and source."""
    return [
        {
            "source": one.source,
            "epsilon": one.epsilon,
            "fooled": one.fooled,
            **{
                key: {
                    "images": group.images.tolist(),
                    "share": _finite_or_none(group.share),
                    "interval": [_finite_or_none(end) for end in group.interval],
                    "chance": _finite_or_none(group.chance),
                }
                for key, group in (("to_all", one.to_all), ("to_some", one.to_some), ("to_none", one.to_none))
            },
        }
        for one in (universal_transfer(matrix) if matrix is not None else [])
    ]


def _rates_as_lists(rates) -> dict:
    share, interval = (np.where(np.isnan(values), None, values.round(6)) for values in (rates.share, rates.interval))
    return {
        "counts": rates.counts.tolist(),
        "of": rates.of.tolist(),
        "share": share.tolist(),
        "interval": interval.tolist(),
    }


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _pair_groups(specs: list[NetworkSpec]) -> dict[str, list[tuple[int, int]]]:
    """Returns the (source, target) pairs in groups.

    Pairs are grouped by the training of source and target. Pairs with the same training are also grouped by what differs:
    the architecture, or only the seed.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for (s, source), (t, target) in product(enumerate(specs), repeat=2):
        if s == t:
            continue
        if source.training == target.training:
            differ = "seed" if source.architecture == target.architecture else "architecture"
            groups.setdefault(f"{source.training}, another {differ}", []).append((s, t))
        groups.setdefault(f"{source.training} to {target.training}", []).append((s, t))
    return groups


def pooled_transfer(matrix: TransferMatrix, epsilon_index: int, name: str, pairs: list[tuple[int, int]]) -> dict:
    """Returns the share of images that fool the target among those that fool the source, pooled over the pairs."""
    source, target = np.array(pairs).T
    fooled_source = matrix.fooled[epsilon_index, source, source]
    fooled_both = (matrix.fooled[epsilon_index, source, target] & fooled_source).sum(0)
    source_counts = fooled_source.sum(0)
    # The bootstrap resamples images, because each image is in all cells of the matrix.
    weight = np.random.default_rng(0).multinomial(matrix.n, np.full(matrix.n, 1 / matrix.n), RESAMPLES)
    sums = weight @ source_counts
    shares = (weight @ fooled_both)[sums > 0] / sums[sums > 0]
    interval = [float(end) for end in np.quantile(shares, [0.025, 0.975])] if len(shares) else None
    return {
        "epsilon": matrix.epsilons[epsilon_index],
        "group": name,
        "pairs": len(pairs),
        "count": int(fooled_both.sum()),
        "of": int(source_counts.sum()),
        "share": float(fooled_both.sum() / source_counts.sum()) if source_counts.sum() else None,
        "interval": interval,
    }


def draw_matrices(results: list[dict], file: Path) -> None:
    """Plots, of the images that fool the source, the share that fools the target, at the epsilon of adversarial training."""
    data = list(dict.fromkeys(row["data"] for row in results))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7 * len(ATTACKS), 0.6 + 6.2 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(ATTACKS), squeeze=False)
        for row in results:
            axes = panels[data.index(row["data"]), list(ATTACKS).index(row["attack"])]
            if "reason" in row:
                axes.set_axis_off()
                continue
            e = _shown_index(row)
            own = row["of_those_that_fool_the_source"]
            shares = np.array([[math.nan if v is None else v for v in line] for line in own["share"][e]])
            image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
            names, of = row["names"], np.array(own["of"][e])[:, 0]
            for (s, t), share in np.ndenumerate(shares):
                # The diagonal is always 1, so it shows the number of images that fool the source.
                text = f"{of[s]}" if s == t else "" if math.isnan(share) else f"{100 * share:.0f}"
                style = {"fontweight": "bold", "fontsize": 8} if s == t else {"fontsize": 8}
                if s != t and of[s] < PALE_BELOW:
                    style |= {"fontstyle": "italic", "alpha": 0.6}
                axes.text(t, s, text, ha="center", va="center", color="black" if share > 0.5 else "white", **style)
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
            axes.set_yticks(range(len(names)), names, fontsize=8)
            axes.set(xlabel="target", ylabel="source")
            epsilon = format_epsilon(row["data"], row["epsilons"][e])
            axes.set_title(f"{row['data']}, {row['attack']}, epsilon {epsilon}, {row['images']} images", fontsize=10)
            bar = figure.colorbar(image, ax=axes, shrink=0.8)
            bar.set_label("share that fools the target, too", fontsize=9)
        figure.supxlabel(
            "off the diagonal: of the images that fool the source, the percentage that also fools the target (pale if fewer "
            f"than {PALE_BELOW} fool the source); on the diagonal: number of images that fool the source; "
            "std, adv: training; epsilon: L∞",
            fontsize=9,
        )
        figure.savefig(file, dpi=110)


def _shown_index(row: dict) -> int:
    return int(np.argmin(np.abs(np.array(row["epsilons"]) / EPSILONS[row["data"]] - SHOWN_MULTIPLE)))


def draw_groups(results: list[dict], file: Path) -> None:
    """Plots the transfer by seed, architecture and training against epsilon."""
    data = list(dict.fromkeys(row["data"] for row in results))
    names = list(dict.fromkeys(group["group"] for row in results for group in row.get("groups", [])))
    # Pairs with the same training are already in the groups "another seed" or "another architecture".
    names = [name for name in names if name not in ("standard to standard", "adversarial to adversarial")]
    colours = dict(zip(names, COLOURS, strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(ATTACKS), 0.8 + 3.2 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(ATTACKS), squeeze=False, sharey=True, sharex="row")
        for row in results:
            axes = panels[data.index(row["data"]), list(ATTACKS).index(row["attack"])]
            scale = 255 if row["data"] == "cifar10" else 1
            unit = "in 1/255 (L∞)" if row["data"] == "cifar10" else "L∞, pixels in [0, 1]"
            axes.set(title=f"{row['data']}, {row['attack']}", xlabel=f"epsilon, {unit}", ylim=(0, 1.02))
            for place, name in enumerate(names):
                groups = [g for g in row.get("groups", []) if g["group"] == name and g["share"] is not None]
                if not groups:
                    continue
                at = scale * np.array([g["epsilon"] for g in groups]) * (1 + 0.01 * (place - (len(names) - 1) / 2))
                share, ends = np.array([g["share"] for g in groups]), np.array([g["interval"] for g in groups]).T
                axes.errorbar(
                    at, share, abs(ends - share), color=colours[name], marker="o", markersize=4, capsize=2, label=name
                )
        for axes in panels[:, 0]:
            axes.set_ylabel("share that fools the target, too")
        handles = [mpl.lines.Line2D([], [], color=colour, marker="o", label=name) for name, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
        figure.savefig(file, dpi=110)


def draw_universal_transfer(results: list[dict], file: Path) -> None:
    """Plots the shares of images that fool all other networks, some and none, and the expected shares by chance."""
    data = list(dict.fromkeys(row["data"] for row in results))
    kinds = {"to_all": "all others", "to_some": "some", "to_none": "none"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6 * len(ATTACKS), 0.8 + 3.6 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(ATTACKS), squeeze=False, sharex=True)
        for row in results:
            axes = panels[data.index(row["data"]), list(ATTACKS).index(row["attack"])]
            if "reason" in row:
                axes.set_axis_off()
                continue
            epsilon = row["epsilons"][_shown_index(row)]
            sources = [one for one in row["reach"] if one["epsilon"] == epsilon]
            for place, one in enumerate(sources):
                left = 0.0
                for kind, colour in zip(kinds, COLOURS, strict=False):
                    share = one[kind]["share"] or 0.0
                    axes.barh(place, share, 0.7, left=left, color=colour, alpha=0.7)
                    left += share
                if one["fooled"]:
                    to_all, to_none = one["to_all"]["chance"], 1 - one["to_none"]["chance"]
                    axes.plot([to_all, to_none], [place, place], "|", color="black", markersize=11, markeredgewidth=1.6)
            labels = [f"{one['source']} ({one['fooled']})" for one in sources]
            axes.set_yticks(range(len(sources)), labels, fontsize=8)
            axes.invert_yaxis()
            axes.set(xlim=(0, 1), title=f"{row['data']}, {row['attack']}, epsilon {format_epsilon(row['data'], epsilon)}")
        for axes in panels[-1]:
            axes.set_xlabel("share of the images that fool the source")
        for axes in panels[:, 0]:
            axes.set_ylabel("source (images that fool it)")
        handles = [
            mpl.patches.Patch(facecolor=colour, alpha=0.7, label=f"fool {kind_name}")
            for kind_name, colour in zip(kinds.values(), COLOURS, strict=False)
        ]
        mark = {"marker": "|", "markersize": 11, "markeredgewidth": 1.6, "linestyle": ""}
        handles.append(
            mpl.lines.Line2D(
                [],
                [],
                color="black",
                label="expected right ends of the first two bars, if the targets were fooled independently",
                **mark,
            )
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
        figure.savefig(file, dpi=110)


def report_text(results: list[dict]) -> str:
    """Returns a summary of the results, a few lines for each data set and attack."""
    lines = []
    for row in results:
        title = f"{row['data']}, {row['attack']}"
        if row["left_out"]:
            lines.append(
                f"{title}: left out (too few images are classified correctly by all networks): {', '.join(row['left_out'])}"
            )
        if "reason" in row:
            lines.append(f"{title}: {row['reason']}")
            continue
        epsilon = row["epsilons"][_shown_index(row)]
        at = [one for one in row["groups"] if one["epsilon"] == epsilon and one["share"] is not None]
        shares = "; ".join(
            f"{one['group']} {100 * one['share']:.0f} % ({100 * one['interval'][0]:.0f} to {100 * one['interval'][1]:.0f}, "
            f"{one['count']} of {one['of']})"
            for one in at
        )
        lines.append(
            f"{title}, epsilon {format_epsilon(row['data'], epsilon)}: of the images that fool the source (of "
            f"{row['images']} "
            f"that all {len(row['names'])} networks classify correctly), the share that fools the target: {shares}"
        )
        pairs = [one for one in row["asymmetry"] if one["epsilon"] == epsilon]
        uneven = [one for one in pairs if one["corrected"] < 0.05]
        most = max(pairs, key=lambda one: abs(one["difference"]))
        to, back = (most["first"], most["second"]) if most["difference"] >= 0 else (most["second"], most["first"])
        lines.append(
            f"  {len(uneven)} of {len(pairs)} pairs are asymmetric (p < 0.05, corrected by Holm); largest difference: "
            f"{to} to {back}, by {100 * abs(most['difference']):.0f} % of the images (p = {most['corrected']:.2g})"
        )
        for at, (key, networks_name) in product(
            row["epsilons"], (("reach", "all networks"), ("reach_among_standard", "networks with standard training"))
        ):
            sources = [one for one in row[key] if one["epsilon"] == at and one["fooled"]]
            if sources:
                text = _format_universal_transfer(sources)
                lines.append(f"  at {format_epsilon(row['data'], at)}, over {networks_name}: {text}")
    return "\n".join(lines)


def _format_universal_transfer(sources: list[dict]) -> str:
    """Formats the universal transfer of the images of all sources at one epsilon."""
    fooled = sum(one["fooled"] for one in sources)
    parts = [
        f"{100 * sum(len(one[kind]['images']) for one in sources) / fooled:.1f} % fool {targets} "
        f"({100 * sum(one[kind]['chance'] * one['fooled'] for one in sources) / fooled:.1f} % by chance)"
        for kind, targets in (("to_all", "all the others"), ("to_some", "some"), ("to_none", "none"))
    ]
    return f"of {fooled} images that fool their source, {', '.join(parts)}"


def main() -> None:
    """Trains and attacks the networks, measures transfer, and writes the results and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    data = data_sets(options.size)
    training = [(options.size, spec, options.out.parent) for d in data for spec in network_specs(d)]
    lab.parallel_map(lab.train_and_save, training, options.workers, "networks")
    jobs = [(options.size, *entry, options.out) for entry in product(data, ATTACKS)]
    results = lab.parallel_map(measure, jobs, options.workers, "matrices")
    lab.write_json(options.out / "transfer.json", {"matrices": results})
    draw_matrices(results, options.out / "transfer_matrices.png")
    draw_groups(results, options.out / "transfer_groups.png")
    draw_universal_transfer(results, options.out / "transfer_reach.png")
    print(report_text(results))


if __name__ == "__main__":
    lab.run(main)
