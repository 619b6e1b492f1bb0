"""Where do networks trained on the same data disagree, and where is the margin of one network low?

Claim (Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
Uncertainty Regions", arXiv:2107.00003): networks have uncertainty regions. The definition of the paper was not available. We
define them as regions where networks of one data set disagree, or where the margin of one network is low.

Method: form committees of two seeds of three architectures, with standard or adversarial training. Measure in the
epsilon-ball around clean images, adversarial images and noise:

- The share of points at which the committee disagrees, and the entropy of its votes.
- The same for pairs of networks that differ only in the seed or only in the architecture.
- The same without the attacked network, because this network changes its class at its boundary by definition.
- The share of points at which the margin of one network is below a threshold.

Also measure the entropy along lines through the boundary of the attacked network.

    python examples/papers/uncertainty.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import numpy as np
import torch
from lab import EPSILONS, SIZES, NetworkSpec, attack_at_smallest_epsilon, correctly_classified, format_epsilon
from matplotlib.figure import Figure
from transfer import ARCHITECTURES, SEEDS, TRAININGS, data_sets

from evaluators import PGD, Linf
from evaluators.attacks import margin
from evaluators.logits.differences import logits_of
from evaluators.regions import Sampling, boundary_entropy, disagreement, low_margin_share, vote_along_line
from evaluators.regions.voting import mean_interval
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from nas.data import Split

ATTACK = PGD(loss=margin, steps=20)
KINDS = ("clean", "adversarial", "noise")
# Multiples of the epsilon of adversarial training.
MULTIPLES = (0.0, 0.25, 0.5, 1.0, 2.0)
FOOLING_MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
# Distances from the boundary, as multiples of the distance between the clean image and the boundary.
OFFSETS = (-1.0, -0.75, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
# A margin is low if it is below this share of the median margin on clean images.
LOW_MARGIN_SHARE = 0.25
RESAMPLES = 2000


@dataclass(frozen=True)
class AttackBudget:
    """Number of samples.

    Attributes:
        images: Number of centres of balls, for each kind.
        samples: Number of points per ball.
        lines: Number of lines through the boundary.
    """

    images: int
    samples: int
    lines: int


BUDGETS = {"smoke": AttackBudget(12, 10, 30), "default": AttackBudget(50, 40, 200), "full": AttackBudget(500, 200, 1000)}


def committee(data: str, training: str) -> list[NetworkSpec]:
    """Returns the networks of one data set and kind of training."""
    return [NetworkSpec(data, architecture, training, seed) for architecture, seed in product(ARCHITECTURES, SEEDS)]


def measure(name: str, data: str, training: str, part: str, folder: Path) -> dict:
    """Returns the measurements of one committee around images of one kind, or along lines through the boundary."""
    file = folder / "committees" / f"{data}-{training}-{part}.json"
    return lab.cached_json(file, _boundary if part == "boundary" else _balls, name, data, training, part, folder.parent)


def _load_committee(name: str, data: str, training: str, work: Path) -> tuple[dict[NetworkSpec, nn.Module], Split]:
    networks, split = {}, None
    for spec in committee(data, training):
        networks[spec], split = lab.load_or_train(spec, SIZES[name], work)
    return networks, split


def _attacked_network(networks: dict[NetworkSpec, nn.Module]) -> NetworkSpec:
    """Returns the attacked network, which is a cell."""
    return next(spec for spec in networks if spec.architecture == "cell")


def _adversarial_pairs(networks: dict[NetworkSpec, nn.Module], split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Returns clean images (N, C, H, W) and their adversarial images for the attacked network."""
    data = next(iter(networks)).data
    source = networks[_attacked_network(networks)]
    x, y = correctly_classified(source, split, count)
    if not len(x):
        return x, x
    grid = tuple(min(1.0, EPSILONS[data] * multiple) for multiple in FOOLING_MULTIPLES)
    index, points, _ = attack_at_smallest_epsilon(source, x, y, ATTACK, grid)
    return x[index], points


def _balls(name: str, data: str, training: str, kind: str, work: Path) -> dict:
    budget = BUDGETS[name]
    networks, split = _load_committee(name, data, training, work)
    clean, adversarial = _adversarial_pairs(networks, split, budget.images)
    noise = torch.rand(budget.images, *split.x.shape[1:], generator=torch.Generator().manual_seed(0)).to(split.x.device)
    centres = {"clean": clean, "adversarial": adversarial, "noise": noise}[kind]
    shared = {"data": data, "training": training, "part": kind, "images": len(centres), "samples": budget.samples}
    if not len(centres):
        return shared
    epsilons = [EPSILONS[data] * multiple for multiple in MULTIPLES]
    pairs = {
        "seed": [(a, b) for a, b in combinations(networks, 2) if a.architecture == b.architecture],
        "architecture": [(a, b) for a, b in combinations(networks, 2) if a.seed == b.seed == SEEDS[0]],
    }

    def regions(members):
        return disagreement(
            [networks[m] for m in members], centres, Linf(), epsilons, sampling=Sampling(samples=budget.samples)
        )

    def committee_row(members) -> dict:
        disagreements = regions(members)
        return {
            # One entry per image. Clean and adversarial images have the same order.
            "of_images": [[round(float(share), 6) for share in shares] for shares in disagreements.share],
            "share": disagreements.mean_share.tolist(),
            "share_interval": disagreements.mean_share_interval.tolist(),
            "entropy": disagreements.mean_entropy.tolist(),
            "entropy_interval": disagreements.mean_entropy_interval.tolist(),
        }

    return {
        **shared,
        "epsilons": epsilons,
        "committee": committee_row(networks),
        "others": committee_row([spec for spec in networks if spec != _attacked_network(networks)]),
        "pairs": {differ: _mean_shares([regions(pair).share for pair in group]) for differ, group in pairs.items()},
        "low_margin": {
            spec.architecture: _low_margin(networks[spec], split, centres, epsilons, budget.samples)
            for spec in networks
            if spec.seed == SEEDS[0]
        },
    }


def _mean_shares(shares: list[np.ndarray]) -> dict:
    """Returns the mean of shares (N, E) over pairs and images, with intervals over images."""
    image_means = np.mean(shares, axis=0)
    return {"share": image_means.mean(0).tolist(), "share_interval": mean_interval(image_means).tolist()}


def _low_margin(network: nn.Module, split: Split, centres: Tensor, epsilons: list[float], samples: int) -> dict:
    logits = logits_of(network, split.x)
    sorted_logits = np.sort(logits, axis=1)
    correct = logits.argmax(1) == split.y.cpu().numpy()
    threshold = LOW_MARGIN_SHARE * float(
        np.median((sorted_logits[:, -1] - sorted_logits[:, -2])[correct if correct.any() else slice(None)])
    )
    low_margin = low_margin_share(network, centres, Linf(), epsilons, threshold, sampling=Sampling(samples=samples))
    return {
        "threshold": threshold,
        "share": low_margin.share.mean(0).tolist(),
        "share_interval": mean_interval(low_margin.share).tolist(),
    }


def _boundary(name: str, data: str, training: str, part: str, work: Path) -> dict:
    networks, split = _load_committee(name, data, training, work)
    clean, adversarial = _adversarial_pairs(networks, split, BUDGETS[name].lines)
    shared = {"data": data, "training": training, "part": part, "images": len(clean)}
    if not len(clean):
        return shared
    members, source = list(networks.values()), list(networks).index(_attacked_network(networks))
    lines = vote_along_line(members, clean, adversarial, crossing_of=source)
    entropy = boundary_entropy(members, clean, adversarial, lines.crossing, OFFSETS)
    others = [m for m in range(len(members)) if m != source]
    others_entropy = boundary_entropy([members[m] for m in others], clean, adversarial, lines.crossing, OFFSETS)
    end = int(np.searchsorted(lines.positions, 1.0 - 1e-9))
    votes = lines.predictions[:, :, end]
    return {
        **shared,
        "offsets": list(OFFSETS),
        "entropy": [_finite_or_none(value) for value in entropy.entropy],
        "interval": [[_finite_or_none(value) for value in ends] for ends in entropy.interval],
        "entropy_of_others": [_finite_or_none(value) for value in others_entropy.entropy],
        "interval_of_others": [[_finite_or_none(value) for value in ends] for ends in others_entropy.interval],
        "n": entropy.n.tolist(),
        # Shares of the other networks, at the adversarial image.
        "others_change_their_class": float((votes[:, others] != lines.predictions[:, others, 0]).mean()),
        "others_follow": float((votes[:, others] == votes[:, [source]]).mean()),
    }


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def adversarial_minus_clean(results: list[dict]) -> list[dict]:
    """Returns the increase of the disagreement of the other networks from clean images to their adversarial images.

    The result is the mean difference over images at each epsilon, with a 95 % bootstrap percentile interval over images.
    """
    rows = []
    for data, training in dict.fromkeys((row["data"], row["training"]) for row in results):
        kinds = {row["part"]: row for row in results if (row["data"], row["training"]) == (data, training)}
        if "epsilons" not in kinds["clean"] or "epsilons" not in kinds["adversarial"]:
            continue
        clean, adversarial = (np.array(kinds[kind]["others"]["of_images"]) for kind in ("clean", "adversarial"))
        differences = adversarial - clean
        resampled = differences[
            np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
        ].mean(1)
        rows.append(
            {
                "data": data,
                "training": training,
                "images": len(differences),
                "epsilons": kinds["clean"]["epsilons"],
                "difference": differences.mean(0).tolist(),
                "interval": np.quantile(resampled, [0.025, 0.975], axis=0).T.tolist(),
            }
        )
    return rows


_DASHES = {"six networks": "-", "five, not the one attacked": "--", "two seeds": "-.", "two architectures": ":"}


def draw_balls(results: list[dict], file: Path) -> None:
    """Plots the disagreement in balls around images of each kind against epsilon, one row for each data set."""
    data, colours = list(dict.fromkeys(row["data"] for row in results)), dict(zip(TRAININGS, COLOURS, strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.9 + 5.6 * len(data)), layout="constrained")
        panels = figure.subplots(2 * len(data), len(KINDS), squeeze=False, sharey="row")
        for row in (row for row in results if "epsilons" in row):
            place, column = 2 * data.index(row["data"]), KINDS.index(row["part"])
            colour, at = colours[row["training"]], _scale(row["data"]) * np.array(row["epsilons"])
            for axes, measured in zip(panels[place : place + 2, column], ("share", "entropy"), strict=True):
                axes.fill_between(
                    at, *np.array(row["others"][f"{measured}_interval"]).T, color=colour, alpha=0.15, linewidth=0
                )
                axes.plot(at, row["committee"][measured], marker=".", color=colour)
                axes.set_xlabel(f"epsilon, {_unit(row['data'])}")
                axes.set_title(f"{row['data']}, around {_centre_name(row['part'])}", fontsize=10)
                axes.plot(at, row["others"][measured], color=colour, linestyle="--")
            for dash, pairs in zip(("-.", ":"), row["pairs"].values(), strict=True):
                panels[place, column].plot(at, pairs["share"], color=colour, linestyle=dash)
            panels[place, column].set_ylim(0, 1.02)
        for place in range(0, len(panels), 2):
            panels[place + 1, 0].set_ylim(bottom=0)
            panels[place, 0].set_ylabel("share in which networks disagree")
            panels[place + 1, 0].set_ylabel("mean vote entropy, nats")
        handles = [mpl.lines.Line2D([], [], color=colour, label=f"{name} training") for name, colour in colours.items()]
        for label, dash in _DASHES.items():
            handles.append(mpl.lines.Line2D([], [], color="black", linestyle=dash, label=label))
        handles.append(mpl.patches.Patch(facecolor="black", alpha=0.15, label="95 % interval of the five's mean"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
        figure.savefig(file, dpi=110)


def draw_boundary(results: list[dict], file: Path) -> None:
    """Plots the vote entropy before and behind the boundary, one panel for each data set."""
    data, colours = list(dict.fromkeys(row["data"] for row in results)), dict(zip(TRAININGS, COLOURS, strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.5 * len(data), 4.2), layout="constrained")
        panels = figure.subplots(1, len(data), squeeze=False, sharey=True)[0]
        for row in (row for row in results if "offsets" in row):
            axes, colour = panels[data.index(row["data"])], colours[row["training"]]
            seen = [place for place, value in enumerate(row["entropy"]) if value is not None]
            at = np.array(row["offsets"])[seen]
            band = np.array([row["interval_of_others"][p] for p in seen])
            axes.fill_between(at, *band.T, color=colour, alpha=0.15, linewidth=0)
            axes.plot(at, [row["entropy"][p] for p in seen], marker=".", color=colour)
            axes.plot(at, [row["entropy_of_others"][p] for p in seen], "--", color=colour)
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set(title=row["data"])
            axes.set_xlabel("distance from the boundary\n(-1: clean image, 0: boundary, 1: as far behind it)")
        panels[0].set(ylabel="mean vote entropy, nats", ylim=(0, math.log(len(ARCHITECTURES) * len(SEEDS))))
        handles = [mpl.lines.Line2D([], [], color=colour, label=f"{name} training") for name, colour in colours.items()]
        for label, dash in list(_DASHES.items())[:2]:
            handles.append(mpl.lines.Line2D([], [], color="black", linestyle=dash, label=label))
        handles.append(mpl.patches.Patch(facecolor="black", alpha=0.15, label="95 % interval of the five's mean"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2 * len(data), fontsize=9)
        figure.savefig(file, dpi=110)


def draw_low_margin(results: list[dict], file: Path) -> None:
    """Plots the share of balls in which the margin of one network is low, one row for each data set."""
    data, colours = list(dict.fromkeys(row["data"] for row in results)), dict(zip(ARCHITECTURES, COLOURS, strict=False))
    dashes = dict(zip(TRAININGS, ("-", "--"), strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.8 + 3.1 * len(data)), layout="constrained")
        panels = figure.subplots(len(data), len(KINDS), squeeze=False, sharey=True)
        for row in (row for row in results if "epsilons" in row):
            axes = panels[data.index(row["data"]), KINDS.index(row["part"])]
            at = _scale(row["data"]) * np.array(row["epsilons"])
            for architecture, one in row["low_margin"].items():
                style = {"color": colours[architecture], "linestyle": dashes[row["training"]]}
                axes.plot(at, one["share"], marker=".", **style)
            axes.set(title=f"{row['data']}, around {_centre_name(row['part'])}", ylim=(0, 1.02))
            axes.set_xlabel(f"epsilon, {_unit(row['data'])}")
        for axes in panels[:, 0]:
            axes.set_ylabel("share with a low margin")
        handles = [mpl.lines.Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        for name, dash in dashes.items():
            handles.append(mpl.lines.Line2D([], [], color="black", linestyle=dash, label=f"{name} training"))
        title = f"low: below {LOW_MARGIN_SHARE:g} of the network's median margin on clean images"
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, title=title)
        figure.savefig(file, dpi=110)


def _scale(data: str) -> int:
    return 255 if data == "cifar10" else 1


def _unit(data: str) -> str:
    return "in 1/255 (L∞)" if data == "cifar10" else "L∞, pixels in [0, 1]"


def _centre_name(kind: str) -> str:
    return "noise" if kind == "noise" else f"{kind} images"


def report_text(results: list[dict]) -> str:
    """Returns a summary of the results, one line for each part of each committee."""
    lines = []
    for row in results:
        title = f"{row['data']}, {row['training']} training"
        if not row["images"]:
            lines.append(f"{title}, {row['part']}: no image is classified correctly and has an adversarial image")
        elif row["part"] == "boundary":
            entropies = zip(row["offsets"], row["entropy"], row["entropy_of_others"], strict=True)
            at = {offset: (every, others) for offset, every, others in entropies if every is not None}
            shown = ", ".join(
                f"{at[offset][0]:.2f} ({at[offset][1]:.2f}) at {offset:g}"
                for offset in (-1.0, -0.5, 0.0, 0.5, 1.0)
                if offset in at
            )
            highest = [max(at, key=lambda offset, which=which: at[offset][which]) for which in (0, 1)]
            lines.append(
                f"{title}: vote entropy along {row['images']} lines (without the attacked network), by distance "
                f"from its boundary (-1: clean image): {shown}; highest at {highest[0]:g} ({highest[1]:g}); at the "
                f"adversarial image {100 * row['others_change_their_class']:.0f} % of the other networks change their "
                f"class, {100 * row['others_follow']:.0f} % to the same one"
            )
        else:
            place = MULTIPLES.index(1.0)
            low, high = row["committee"]["share_interval"][place]
            pairs = ", ".join(
                f"two with another {differ} in {100 * one['share'][place]:.0f} %" for differ, one in row["pairs"].items()
            )
            margins = ", ".join(f"{name} {100 * one['share'][place]:.0f} %" for name, one in row["low_margin"].items())
            all_six, others = (row[who]["share"] for who in ("committee", "others"))
            lines.append(
                f"{title}, {_centre_name(row['part'])} ({row['images']}), "
                f"within {format_epsilon(row['data'], row['epsilons'][place])}: "
                f"six networks disagree in {100 * all_six[place]:.0f} % ({100 * low:.0f} to {100 * high:.0f}) of the "
                f"ball, at the centre in {100 * all_six[0]:.0f} %; the five other networks in "
                f"{100 * others[place]:.0f} %, at the centre in {100 * others[0]:.0f} %; {pairs}; margins are low in: "
                f"{margins}"
            )
    return "\n".join(lines)


def main() -> None:
    """Trains and measures the committees, and writes the results and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    groups = list(product(data_sets(options.size), TRAININGS))
    training = [(options.size, spec, options.out.parent) for group in groups for spec in committee(*group)]
    lab.parallel_map(lab.train_and_save, training, options.workers, "networks")
    jobs = [(options.size, *group, part, options.out) for group in groups for part in (*KINDS, "boundary")]
    results = lab.parallel_map(measure, jobs, options.workers, "committees")
    differences = adversarial_minus_clean(results)
    lab.write_json(options.out / "uncertainty.json", {"adversarial_less_clean": differences, "committees": results})
    balls, lines = ([row for row in results if (row["part"] == "boundary") == is_line] for is_line in (False, True))
    draw_balls(balls, options.out / "uncertainty_balls.png")
    draw_boundary(lines, options.out / "uncertainty_boundary.png")
    draw_low_margin(balls, options.out / "uncertainty_low_margin.png")
    print(report_text(results))
    for row in differences:
        places = {0: "at the images themselves", MULTIPLES.index(1.0): "in the ball of the epsilon of training"}
        texts = "; ".join(
            f"{where} {row['difference'][place]:+.2f} ({row['interval'][place][0]:+.2f} to {row['interval'][place][1]:+.2f})"
            for place, where in places.items()
        )
        print(
            f"{row['data']}, {row['training']} training: disagreement of the five other networks around adversarial images "
            f"minus that around their {row['images']} clean images: {texts}"
        )


if __name__ == "__main__":
    lab.run(main)
