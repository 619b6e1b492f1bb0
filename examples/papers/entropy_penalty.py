"""Does an entropy penalty increase robustness, or does it mask gradients?

Cubuk et al. ("Intriguing Properties of Adversarial Examples", arXiv:1711.02846) study a penalty on the entropy of the
predictions as a defence. The penalty rewards large logit differences. A network can reach them by scaling its logits.
Scaling changes no decision, but it makes the gradients of the cross-entropy vanish.

Method: train networks with and without adversarial images, for several strengths of the penalty. Measure the entropy, the
logit differences, and the errors under six attacks: FGSM (one step), PGD on the cross-entropy, PGD on the margin, APGD on
the difference of logits ratio (DLR), Square (no gradients), and transfer from an unpenalised network with another seed. A
gain under the first two attacks that the others do not show is masking. The gain in the worst case over all attacks is the
robust gain. The gains at every strength have intervals over the images, which are the same for all networks.

    python examples/papers/entropy_penalty.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from typing import TYPE_CHECKING

import lab
import matplotlib as mpl
import numpy as np
from lab import EPSILONS, SIZES, NetworkSpec, format_epsilon, plain_ticks
from matplotlib.figure import Figure

from evaluators import APGD, FGSM, PGD, Linf, Square, Transfer, error_at, margins, radii, worst_case
from evaluators.attacks import dlr, margin
from evaluators.curves.error_curves import binomial_interval
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

    from evaluators import Attack

RESAMPLES = 2000
STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0)
SEEDS = {"digits": 3, "mnist": 2}
# Square needs many passes, and MNIST images have 28x28 pixels.
MAX_IMAGES = {"smoke": 30, "default": 300, "full": 2000}
# Plotted statistics of the logits: title, name and divisor.
LOGIT_PANELS = (
    ("entropy, nats", "entropy", 1),
    ("logit difference", "logit_difference", 1),
    ("its steepness / 100, logits per unit of epsilon", "steepness", 100),
)
# Epsilons for networks with standard training. At these, the attacks fool an unpenalised network on a quarter to a third of
# the images. At the epsilon of adversarial training, they fool it on nearly all images, so no gain could be visible.
STANDARD_EPSILONS = {"digits": 0.06, "mnist": 0.0225}
ATTACK_STEPS = {"smoke": (2, 10), "default": (40, 500), "full": (100, 5000)}


def network_specs(size: str) -> list[tuple[NetworkSpec, float]]:
    """Returns the networks, each with the strength of its penalty."""
    data = ["digits"] if size == "smoke" else [*SEEDS]
    strengths = STRENGTHS[::4] if size == "smoke" else STRENGTHS
    return [
        (NetworkSpec(d, "cell", training, seed), strength)
        for d, training, strength in product(data, ("standard", "adversarial"), strengths)
        for seed in range(1 if size == "smoke" else SEEDS[d])
    ]


def measure(name: str, spec: NetworkSpec, strength: float, folder: Path) -> dict:
    """Returns the measurements of one network."""
    file = folder / "networks" / f"{spec.name}-{strength:g}.json"
    return lab.cached_json(file, _measure, name, spec, strength, folder.parent)


def _measure(name: str, spec: NetworkSpec, strength: float, work: Path) -> dict:
    size = SIZES[name]
    network, split = lab.load_or_train(spec, size, work, entropy_penalty=strength)
    source, _ = lab.load_or_train(replace(spec, seed=spec.seed + 100), size, work)
    split = split.first(MAX_IMAGES[name])
    epsilon = (EPSILONS if spec.training == "adversarial" else STANDARD_EPSILONS)[spec.data]
    steps, queries = ATTACK_STEPS[name]
    attacks: dict[str, Attack] = {
        "FGSM": FGSM(),
        "PGD, cross-entropy": PGD(steps=steps),
        "PGD, margin": PGD(steps=steps, loss=margin),
        "APGD, DLR": APGD(steps=steps, loss=dlr),
        "Square": Square(queries=queries),
        "transfer": Transfer(source=source, attack=PGD(steps=steps, loss=margin)),
    }
    logit_margins = margins(network, split.x, split.y, [Linf()], classes=1)
    sizes = {title: radii(network, split.x, split.y, attack, [epsilon]).numpy() for title, attack in attacks.items()}
    return {
        **asdict(spec),
        "strength": strength,
        "epsilon": epsilon,
        "images": len(split.x),
        "entropy": float(logit_margins.entropy.mean()),
        "logit_difference": float(np.median(logit_margins.margin)),
        "steepness": float(np.median(logit_margins.gradient_norms["linf"][:, 0])),
        "first_order_radius": float(np.median(logit_margins.radii["linf"])),
        "clean_error": float(1 - logit_margins.right.mean()),
        "errors": {title: error_at(size_of, epsilon) for title, size_of in sizes.items()},
        "worst_case": error_at(worst_case(list(sizes.values())), epsilon),
        # One entry per image, in order.
        "wrong": (~logit_margins.right).astype(int).tolist(),
        "fooled": {title: (size_of <= epsilon).astype(int).tolist() for title, size_of in sizes.items()},
    }


def summarise(results: list[dict]) -> list[dict]:
    """Returns the means over seeds, one row for each data set, training and strength."""
    rows = []
    for key in dict.fromkeys((row["data"], row["training"], row["strength"]) for row in results):
        group = [row for row in results if (row["data"], row["training"], row["strength"]) == key]
        means = {
            name: float(np.mean([row[name] for row in group]))
            for name in ("entropy", "logit_difference", "steepness", "first_order_radius", "clean_error", "worst_case")
        }
        errors = {title: float(np.mean([row["errors"][title] for row in group])) for title in group[0]["errors"]}
        shared = {"data": key[0], "training": key[1], "strength": key[2], "seeds": len(group)}
        rows.append({**shared, "epsilon": group[0]["epsilon"], "images": group[0]["images"], **means, "errors": errors})
    return rows


def gains(results: list[dict]) -> list[dict]:
    """Returns the decrease of each error relative to no penalty, at each strength, with intervals over the images."""
    rows = []
    for key in dict.fromkeys((row["data"], row["training"]) for row in results):
        group = [row for row in results if (row["data"], row["training"]) == key]
        unpenalised = _wrong_shares([row for row in group if row["strength"] == 0])
        for strength in sorted({row["strength"] for row in group} - {0.0}):
            penalised = _wrong_shares([row for row in group if row["strength"] == strength])
            differences = {name: unpenalised[name] - penalised[name] for name in unpenalised}
            differences["masked"] = differences["PGD, cross-entropy"] - differences["worst case"]
            intervals = {name: _bootstrap_mean(values) for name, values in differences.items()}
            rows.append({"data": key[0], "training": key[1], "strength": strength, "gains": intervals})
    return rows


def _wrong_shares(rows: list[dict]) -> dict[str, np.ndarray]:
    """Returns the share of networks that misclassify each image (N,), by attack, in the worst case and without attack."""
    attacks = {title: np.array([row["fooled"][title] for row in rows]) for title in rows[0]["fooled"]}
    attacks["worst case"] = np.max(list(attacks.values()), axis=0)
    return {name: wrong.mean(0) for name, wrong in (attacks | {"clean": np.array([row["wrong"] for row in rows])}).items()}


def _bootstrap_mean(values: np.ndarray) -> dict:
    """Returns the mean over images (N,) and its 95 % bootstrap percentile interval over images."""
    resampled = values[np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    return {"gain": float(values.mean()), "interval": [float(end) for end in np.quantile(resampled, [0.025, 0.975])]}


def draw(rows: list[dict], file: Path) -> None:
    """Plots the errors and the statistics of the logits against the strength of the penalty."""
    columns = list(dict.fromkeys((row["data"], row["training"]) for row in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(6, 3.4 * len(columns)), 6.4), layout="constrained")
        panels = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
        for column, key in enumerate(columns):
            group = sorted((row for row in rows if (row["data"], row["training"]) == key), key=lambda row: row["strength"])
            places = range(len(group))
            top, low = panels[:, column]
            for colour, title in zip(COLOURS, group[0]["errors"], strict=False):
                top.plot(places, [row["errors"][title] for row in group], marker=".", color=colour, label=title)
            worst, n = np.array([row["worst_case"] for row in group]), group[0]["images"]
            ends = binomial_interval(np.round(worst * n), n).T
            top.fill_between(places, *ends, color="black", alpha=0.1, linewidth=0, label="its 95 % interval, one network")
            top.plot(places, worst, color="black", linewidth=2, alpha=0.5, label="worst case")
            top.plot(places, [row["clean_error"] for row in group], color="black", linestyle=":", label="clean")
            epsilon = format_epsilon(key[0], group[0]["epsilon"])
            top.set(title=f"{key[0]}, {key[1]}, epsilon {epsilon}", ylim=(0, 1.02))
            for colour, (title, name, scale) in zip(COLOURS, LOGIT_PANELS, strict=False):
                low.plot(places, [row[name] / scale for row in group], marker=".", color=colour, label=title)
            low.set(xlabel="strength of the penalty (not to scale)", yscale="log")
            low.set_xticks(places, [f"{row['strength']:g}" for row in group])
        panels[0, 0].set_ylabel("error")
        panels[1, 0].set_ylabel("median over images (entropy: mean)")
        low, high = panels[1, 0].get_ylim()
        panels[1, 0].set_ylim(low, 5 * high)  # Room for the legend.
        plain_ticks(panels[1, 0].yaxis)
        panels[1, 0].legend(fontsize=8, loc="upper left")
        handles, titles = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, titles, loc="outside lower center", ncols=4, fontsize=8)
        figure.savefig(file, dpi=110)


def report_text(gain_rows: list[dict], means: list[dict]) -> str:
    """Returns a summary of the results, one line for each data set, training and strength."""
    lines = ["decrease of the error relative to no penalty, with separate 95 % intervals over images"]
    epsilons = {(row["data"], row["training"]): row["epsilon"] for row in means}
    for row in gain_rows:
        parts = []
        for name in ("PGD, cross-entropy", "worst case", "masked", "clean"):
            one = row["gains"][name]
            parts.append(f"{name} {one['gain']:+.3f} ({one['interval'][0]:+.3f} to {one['interval'][1]:+.3f})")
        epsilon = format_epsilon(row["data"], epsilons[row["data"], row["training"]])
        lines.append(f"{row['data']}, {row['training']}, at {epsilon}, strength {row['strength']:g}: {'; '.join(parts)}")
    return "\n".join(lines)


def main() -> None:
    """Trains and attacks the networks, and writes the summary and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    jobs = [(options.size, spec, strength, options.out) for spec, strength in network_specs(options.size)]
    results = lab.parallel_map(measure, jobs, options.workers, "networks")
    rows = summarise(results)
    gain_rows = gains(results)
    network_rows = [{name: value for name, value in row.items() if name not in ("wrong", "fooled")} for row in results]
    lab.write_json(options.out / "entropy_penalty.json", {"gains": gain_rows, "means": rows, "networks": network_rows})
    draw(rows, options.out / "entropy_penalty.png")
    print(report_text(gain_rows, rows))


if __name__ == "__main__":
    lab.run(main)
