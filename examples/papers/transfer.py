"""Do adversarial images carry over from network to network, and do some of them carry over to all?

Claim (Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
Uncertainty Regions", arXiv:2107.00003): the transfer of adversarial images is not universal: one that fools a network
need not fool another that learnt from the same data.

Here: two seeds each of three architectures, trained normally and adversarially; two attacks, a grid of epsilons. Every
network is source and target, on the images that all classify rightly. The matrix with counts and intervals; how much seed,
architecture and training matter; its asymmetry; and which images transfer to all networks, to some and to none, beside what
chance would give.

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
from lab import EPSILONS, SIZES, Subject, format_epsilon
from matplotlib.figure import Figure

from evaluators import FGSM, PGD, TransferMatrix, transfer_matrix, transfer_rates
from evaluators.attacks import margin
from evaluators.logits.differences import logits_of
from evaluators.transferability.matrix import asymmetry
from evaluators.transferability.universal import transfer_reach
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from nas.data import Split

ARCHITECTURES = ("mlp", "residual", "cell")
SHORT = {"standard": "std", "adversarial": "adv"}
TRAININGS = tuple(SHORT)
SEEDS = (0, 1)
ATTACKS = {"fgsm": FGSM(), "pgd": PGD(loss=margin, steps=10)}
# Of the epsilon of adversarial training.
MULTIPLES = {"smoke": (1.0, 2.0), "default": (0.5, 1.0, 2.0), "full": (0.25, 0.5, 1.0, 2.0, 4.0)}
# The epsilon at which the matrix is drawn, as a multiple.
SHOWN = 1.0
# Images to look for those that all networks classify rightly, and how many of these there must be.
MOST = {"smoke": 120, "default": 600, "full": 5000}
ENOUGH = {"smoke": 10, "default": 30, "full": 200}
RESAMPLES = 1000
# A share of fewer images than this is drawn pale.
FEW = 10


def subjects(data: str) -> list[Subject]:
    """Returns the networks of a data set."""
    return [Subject(data, *entry) for entry in product(ARCHITECTURES, TRAININGS, SEEDS)]


def data_sets(size: str) -> tuple[str, ...]:
    """Returns what the networks learn from."""
    return ("digits",) if size == "smoke" else ("mnist", "cifar10")


def short(subject: Subject) -> str:
    """Returns the name of a network among those of its data set."""
    return f"{subject.architecture} {SHORT[subject.training]} {subject.seed}"


def usable(networks: dict[str, nn.Module], split: Split, enough: int) -> list[str]:
    """Returns the names of the networks that are all right on enough images, without those right on fewest."""
    labels = split.y.cpu().numpy()
    right = {name: logits_of(network, split.x).argmax(1) == labels for name, network in networks.items()}
    while len(right) > 1 and np.all(list(right.values()), axis=0).sum() < enough:
        right.pop(min(right, key=lambda name: int(right[name].sum())))
    return list(right)


def measure(name: str, data: str, attack: str, folder: Path) -> dict:
    """Returns the transfer of one attack between the networks of one data set."""
    return lab.kept(folder / "matrices" / f"{data}-{attack}.json", _measure, name, data, attack, folder.parent)


def _measure(name: str, data: str, attack: str, work: Path) -> dict:
    networks, chosen = {}, {}
    for subject in subjects(data):
        networks[short(subject)], split = lab.trained(subject, SIZES[name], work)
        chosen[short(subject)] = subject
    split = split.first(MOST[name])
    kept = usable(networks, split, ENOUGH[name])
    shared = {"data": data, "attack": attack, "names": kept, "left_out": [n for n in networks if n not in kept]}
    if len(kept) < 2:
        return {**shared, "reason": f"no two networks classify the same {ENOUGH[name]} images rightly"}
    epsilons = [EPSILONS[data] * multiple for multiple in MULTIPLES[name]]
    matrix = transfer_matrix({n: networks[n] for n in kept}, split.x, split.y, ATTACKS[attack], epsilons)
    every, own = transfer_rates(matrix), transfer_rates(matrix, conditional=True)
    return {
        **shared,
        "epsilons": epsilons,
        "given": matrix.given,
        "images": matrix.n,
        # Both by epsilon, source and target.
        "of_all": _written(every),
        "of_those_that_fool_the_source": _written(own),
        "groups": [
            _group(matrix, e, group, pairs)
            for e, (group, pairs) in product(range(len(epsilons)), _groups([chosen[n] for n in kept]).items())
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
        "reach": _reach(matrix),
        # Those that were not trained to withstand just these images.
        "reach_among_standard": _reach(_among(matrix, [n for n in kept if chosen[n].training == "standard"])),
    }


def _among(matrix: TransferMatrix, names: list[str]) -> TransferMatrix | None:
    """Returns the part of a matrix that is about some of the networks; None of fewer than two."""
    if len(names) < 2:
        return None
    places = [matrix.names.index(name) for name in names]
    return replace(matrix, names=tuple(names), fooled=matrix.fooled[:, places][:, :, places])


def _reach(matrix: TransferMatrix | None) -> list[dict]:
    """Returns which images transfer to all other networks, to some and to none, a row for each epsilon and source."""
    return [
        {
            "source": one.source,
            "epsilon": one.epsilon,
            "fooled": one.fooled,
            **{
                key: {
                    "images": group.images.tolist(),
                    "share": _finite(group.share),
                    "interval": [_finite(end) for end in group.interval],
                    "chance": _finite(group.chance),
                }
                for key, group in (("to_all", one.to_all), ("to_some", one.to_some), ("to_none", one.to_none))
            },
        }
        for one in (transfer_reach(matrix) if matrix is not None else [])
    ]


def _written(shares) -> dict:
    share, interval = (np.where(np.isnan(found), None, found.round(6)) for found in (shares.share, shares.interval))
    return {
        "counts": shares.counts.tolist(),
        "of": shares.of.tolist(),
        "share": share.tolist(),
        "interval": interval.tolist(),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _groups(kept: list[Subject]) -> dict[str, list[tuple[int, int]]]:
    """Returns pairs of source and target by how the two differ, and by how they were trained."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for (s, source), (t, target) in product(enumerate(kept), repeat=2):
        if s == t:
            continue
        if source.training == target.training:
            differ = "seed" if source.architecture == target.architecture else "architecture"
            groups.setdefault(f"{source.training}, another {differ}", []).append((s, t))
        groups.setdefault(f"{source.training} to {target.training}", []).append((s, t))
    return groups


def _group(matrix: TransferMatrix, e: int, name: str, pairs: list[tuple[int, int]]) -> dict:
    """Returns the pooled share of images that fool their source and a target, too, with an interval over images."""
    source, target = np.array(pairs).T
    own = matrix.fooled[e, source, source]
    both = (matrix.fooled[e, source, target] & own).sum(0)
    of = own.sum(0)
    # An image is in all cells of the matrix: it is drawn again with all of them.
    weight = np.random.default_rng(0).multinomial(matrix.n, np.full(matrix.n, 1 / matrix.n), RESAMPLES)
    sums = weight @ of
    shares = (weight @ both)[sums > 0] / sums[sums > 0]
    interval = [float(end) for end in np.quantile(shares, [0.025, 0.975])] if len(shares) else None
    return {
        "epsilon": matrix.epsilons[e],
        "group": name,
        "pairs": len(pairs),
        "count": int(both.sum()),
        "of": int(of.sum()),
        "share": float(both.sum() / of.sum()) if of.sum() else None,
        "interval": interval,
    }


def draw_matrices(found: list[dict], file: Path) -> None:
    """Draws the share of the images that fool the source which fool the target, at the epsilon of adversarial training."""
    data = list(dict.fromkeys(row["data"] for row in found))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7 * len(ATTACKS), 0.6 + 6.2 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(ATTACKS), squeeze=False)
        for row in found:
            axes = panels[data.index(row["data"]), list(ATTACKS).index(row["attack"])]
            if "reason" in row:
                axes.set_axis_off()
                continue
            e = _shown(row)
            own = row["of_those_that_fool_the_source"]
            shares = np.array([[math.nan if v is None else v for v in line] for line in own["share"][e]])
            image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
            names, of = row["names"], np.array(own["of"][e])[:, 0]
            for (s, t), share in np.ndenumerate(shares):
                # The diagonal is 1 by what it is: there stands how many images fool the source.
                text = f"{of[s]}" if s == t else "" if math.isnan(share) else f"{100 * share:.0f}"
                style = {"fontweight": "bold", "fontsize": 8} if s == t else {"fontsize": 8}
                if s != t and of[s] < FEW:
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
            f"in the cells: percent of the images that fool the source, pale where these are fewer than {FEW}; on the "
            "diagonal: how many do; std, adv: training; epsilon: L∞",
            fontsize=9,
        )
        figure.savefig(file, dpi=110)


def _shown(row: dict) -> int:
    return int(np.argmin(np.abs(np.array(row["epsilons"]) / EPSILONS[row["data"]] - SHOWN)))


def draw_groups(found: list[dict], file: Path) -> None:
    """Draws how transfer depends on seed, architecture and training, over epsilon."""
    data = list(dict.fromkeys(row["data"] for row in found))
    names = list(dict.fromkeys(group["group"] for row in found for group in row.get("groups", [])))
    # Those of one training are in the two that tell seeds from architectures.
    names = [name for name in names if name not in ("standard to standard", "adversarial to adversarial")]
    colours = dict(zip(names, COLOURS, strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(ATTACKS), 0.8 + 3.2 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(ATTACKS), squeeze=False, sharey=True, sharex="row")
        for row in found:
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


def draw_reach(found: list[dict], file: Path) -> None:
    """Draws the shares of images that fool all other networks, some and none, and what chance would give."""
    data = list(dict.fromkeys(row["data"] for row in found))
    kinds = {"to_all": "all others", "to_some": "some", "to_none": "none"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6 * len(ATTACKS), 0.8 + 3.6 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(ATTACKS), squeeze=False, sharex=True)
        for row in found:
            axes = panels[data.index(row["data"]), list(ATTACKS).index(row["attack"])]
            if "reason" in row:
                axes.set_axis_off()
                continue
            epsilon = row["epsilons"][_shown(row)]
            reach = [one for one in row["reach"] if one["epsilon"] == epsilon]
            for place, one in enumerate(reach):
                left = 0.0
                for kind, colour in zip(kinds, COLOURS, strict=False):
                    share = one[kind]["share"] or 0.0
                    axes.barh(place, share, 0.7, left=left, color=colour, alpha=0.7)
                    left += share
                if one["fooled"]:
                    to_all, to_none = one["to_all"]["chance"], 1 - one["to_none"]["chance"]
                    axes.plot([to_all, to_none], [place, place], "|", color="black", markersize=11, markeredgewidth=1.6)
            labels = [f"{one['source']} ({one['fooled']})" for one in reach]
            axes.set_yticks(range(len(reach)), labels, fontsize=8)
            axes.invert_yaxis()
            axes.set(xlim=(0, 1), title=f"{row['data']}, {row['attack']}, epsilon {format_epsilon(row['data'], epsilon)}")
        for axes in panels[-1]:
            axes.set_xlabel("share of the images that fool the source")
        for axes in panels[:, 0]:
            axes.set_ylabel("source (images that fool it)")
        handles = [
            mpl.patches.Patch(facecolor=colour, alpha=0.7, label=f"fool {told_kind}")
            for told_kind, colour in zip(kinds.values(), COLOURS, strict=False)
        ]
        mark = {"marker": "|", "markersize": 11, "markeredgewidth": 1.6, "linestyle": ""}
        handles.append(
            mpl.lines.Line2D([], [], color="black", label="where these two would end, were targets independent", **mark)
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
        figure.savefig(file, dpi=110)


def statement(found: list[dict]) -> str:
    """Returns what was seen, a few lines for each data set and attack."""
    lines = []
    for row in found:
        title = f"{row['data']}, {row['attack']}"
        if row["left_out"]:
            lines.append(f"{title}: left out, as too few images are right under all: {', '.join(row['left_out'])}")
        if "reason" in row:
            lines.append(f"{title}: {row['reason']}")
            continue
        epsilon = row["epsilons"][_shown(row)]
        at = [one for one in row["groups"] if one["epsilon"] == epsilon and one["share"] is not None]
        shares = "; ".join(
            f"{one['group']} {100 * one['share']:.0f} % ({100 * one['interval'][0]:.0f} to {100 * one['interval'][1]:.0f}, "
            f"{one['count']} of {one['of']})"
            for one in at
        )
        lines.append(
            f"{title}, epsilon {format_epsilon(row['data'], epsilon)}: of the images that fool the source (of "
            f"{row['images']} "
            f"that are right under all {len(row['names'])} networks), so many fool the target: {shares}"
        )
        pairs = [one for one in row["asymmetry"] if one["epsilon"] == epsilon]
        uneven = [one for one in pairs if one["corrected"] < 0.05]
        most = max(pairs, key=lambda one: abs(one["difference"]))
        to, back = (most["first"], most["second"]) if most["difference"] >= 0 else (most["second"], most["first"])
        lines.append(
            f"  {len(uneven)} of {len(pairs)} pairs carry over more one way than back (p < 0.05, corrected by Holm); most "
            f"so {to} to {back}, by {100 * abs(most['difference']):.0f} % of the images (p = {most['corrected']:.2g})"
        )
        for at, (key, whom) in product(row["epsilons"], (("reach", "all"), ("reach_among_standard", "normally trained"))):
            reach = [one for one in row[key] if one["epsilon"] == at and one["fooled"]]
            if reach:
                lines.append(f"  at {format_epsilon(row['data'], at)}, over {whom} networks: {_told_reach(reach)}")
    return "\n".join(lines)


def _told_reach(reach: list[dict]) -> str:
    """Returns in words how far the images of all sources carry at one epsilon."""
    fooled = sum(one["fooled"] for one in reach)
    parts = [
        f"{100 * sum(len(one[kind]['images']) for one in reach) / fooled:.1f} % fool {whom} "
        f"({100 * sum(one[kind]['chance'] * one['fooled'] for one in reach) / fooled:.1f} % by chance)"
        for kind, whom in (("to_all", "all the others"), ("to_some", "some"), ("to_none", "none"))
    ]
    return f"of {fooled} images that fool their source, {', '.join(parts)}"


def main() -> None:
    """Trains, crafts, tries, sums up and draws."""
    options = lab.arguments(__file__, __doc__)
    data = data_sets(options.size)
    training = [(options.size, subject, options.out.parent) for d in data for subject in subjects(d)]
    lab.each(lab.prepare, training, options.workers, "networks")
    jobs = [(options.size, *entry, options.out) for entry in product(data, ATTACKS)]
    found = lab.each(measure, jobs, options.workers, "matrices")
    lab.write_json(options.out / "transfer.json", {"matrices": found})
    draw_matrices(found, options.out / "transfer_matrices.png")
    draw_groups(found, options.out / "transfer_groups.png")
    draw_reach(found, options.out / "transfer_reach.png")
    print(statement(found))


if __name__ == "__main__":
    lab.run(main)
