"""Measures the optimality of our attacks and of those of foolbox, adv-lib and pyautoattack, as AttackBench does.

    python tests/benchmarks/optimality.py [--images 24] [--norms linf l2 l1] [--only ours/FMN ...]

The optimality of an attack is the area under its error curve, over the area under the best curve known. That curve has the
smallest radius of each image over all attacks of the run. The areas end at the largest of these radii, where the best curve
reaches an accuracy of 0. Each image has a budget of 2,000 forward and backward passes, and an attack is judged by all points
that it visits (`counted_network.py`). The networks are two small residual networks trained on CIFAR-10, normally and
adversarially (`cifar_networks.py`). The images are the first of the test images that both classify correctly. All libraries
attack the same network with folded batch norm. Goal: in every norm, an attack of ours is first, or at most 0.005 behind.

The images are attacked in groups. Each attack on a group is stored in a JSON file, and a stopped run resumes there. More
images can be added later. Libraries that are not installed are skipped. adv-lib needs a separate folder, because it
requires packages that its attacks do not use. It imports visdom only for live plots, so an empty file is enough:

    pip install --no-deps --target FOLDER adv-lib && touch FOLDER/visdom.py && export PYTHONPATH=$PYTHONPATH:FOLDER

Source: Cinà et al., "AttackBench: Evaluating Gradient-based Attacks for Adversarial Examples", AAAI 2025, arXiv:2404.19460.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import math
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from cifar_networks import CACHE, images, network
from counted_network import BudgetSpentError, CountedNetwork
from optimality_attacks import LIBRARIES, NORMS, attacks

from evaluators.curves.optimality import optimality
from evaluators.engine.fast_inference import inference

KINDS = ("normal", "adversarial")
RESULTS = Path(__file__).resolve().parents[2] / "examples" / "results" / "attack_optimality.json"


def measure(run, net, x, y, norm, budget):
    """Returns the radii of an attack, (N,), the passes of each image, (N,), and the CPU seconds, as plain data.

    Args:
        run: Function of a network, images and labels that runs the attack.
        net: Attacked network.
        x: Clean images, (N, ...).
        y: True labels, (N,).
        norm: Norm of the radii.
        budget: Number of passes of each image.
    """
    counted = CountedNetwork(net, x, y, norm, budget).eval()
    torch.manual_seed(0)
    np.random.seed(0)  # Attacks of other libraries use the global generators.
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), contextlib.suppress(BudgetSpentError):
        warnings.simplefilter("ignore")
        run(counted, x, y)
    return {
        "radii": [float(f"{size:.4g}") if math.isfinite(size) else None for size in counted.sizes.tolist()],
        "passes": counted.passes.clamp(max=budget).tolist(),
        "seconds": round(time.process_time() - started, 1),
    }


def optimalities(by_attack):
    """Returns the optimality of each attack on one network, by name, and the largest epsilon of the areas.

    Args:
        by_attack: The radii of each attack, (N,) with None for images that were never fooled, by name.
    """
    known = {name: np.array([math.inf if r is None else r for r in values]) for name, values in by_attack.items()}
    best = np.min(list(known.values()), axis=0)
    largest = float(best[np.isfinite(best)].max())
    return {name: optimality(values, best, largest) for name, values in known.items()}, largest


def complete(stored, norm):
    """Returns the measurements of a norm by network, of the attacks that have run on all images of both networks."""
    parts = {kind: stored["measured"].get(f"{norm}/{kind}", {}) for kind in KINDS}
    count = max((len(one["radii"]) for part in parts.values() for one in part.values()), default=0)
    names = [
        name
        for name in parts[KINDS[0]]
        if all(name in part and len(part[name]["radii"]) == count for part in parts.values())
    ]
    return {kind: {name: part[name] for name in names} for kind, part in parts.items()}


def rows(stored, norm):
    """Returns the rows of the table of a norm, the best attack first.

    A row has the attack, its library, its optimality on each network, their mean, the median passes of an image, and the CPU
    seconds.
    """
    parts = complete(stored, norm)
    shares = {kind: optimalities({name: one["radii"] for name, one in part.items()})[0] for kind, part in parts.items()}
    table = []
    for name in parts[KINDS[0]]:
        library, attack = name.split("/")
        values = [shares[kind][name] for kind in KINDS]
        passes = float(np.median([one for part in parts.values() for one in part[name]["passes"]]))
        seconds = sum(part[name]["seconds"] for part in parts.values())
        table.append((attack, library, *values, float(np.mean(values)), passes, seconds))
    return sorted(table, key=lambda row: -row[-3])


def markdown(stored, norm):
    """Returns the table of a norm in Markdown."""
    lines = [
        f"| attack | library | {' | '.join(KINDS)} | mean | passes | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for attack, library, *values, passes, seconds in rows(stored, norm):
        numbers = " | ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {attack} | {library} | {numbers} | {passes:,.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def correct_images(nets, test, count):
    """Returns the first `count` test images that all networks classify correctly, (N, ...), and their labels, (N,)."""
    with torch.no_grad():
        right = torch.stack([net(test.x).argmax(1) == test.y for net in nets]).all(0).nonzero().squeeze(1)[:count]
    return test.x[right], test.y[right]


def main() -> None:
    """Runs what is not stored yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norms", nargs="*", choices=NORMS, default=list(NORMS))
    parser.add_argument("--only", nargs="*", default=[], help="attacks to run, such as ours/FMN; all by default")
    parser.add_argument("--images", type=int, default=24, help="number of images, a multiple of the group")
    parser.add_argument("--group", type=int, default=12, help="number of images that are attacked at once")
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file that is written, and read to resume")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for library, module in LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            print(f"{library} is not installed and is skipped")
    shared = Path(os.environ.get("HARDCELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    archive = shared / "cifar10-jpeg.tar.xz"
    nets = {kind: network(kind, archive, options.cache) for kind in KINDS}
    x, y = correct_images(nets.values(), images(archive, options.cache)[1].first(400), options.images)
    stored = json.loads(options.results.read_text()) if options.results.exists() else {"measured": {}}
    settings = {"group": options.group, "budget": options.budget}
    if stored.setdefault("settings", settings) != settings:
        parser.error(f"{options.results} has other settings, {stored['settings']}; use --results or delete it")
    for start in range(0, options.images, options.group):
        part = slice(start, start + options.group)
        for norm, (kind, net) in itertools.product(options.norms, nets.items()):
            done = stored["measured"].setdefault(f"{norm}/{kind}", {})
            with inference(net, x) as fast:
                for (library, attack), run in attacks(norm).items():
                    name = f"{library}/{attack}"
                    before = done.get(name, {"radii": [], "passes": [], "seconds": 0.0})
                    if len(before["radii"]) != start or (options.only and name not in options.only):
                        continue
                    new = measure(run, fast, x[part], y[part], NORMS[norm], options.budget)
                    done[name] = {key: before[key] + new[key] for key in before}
                    options.results.write_text(json.dumps(stored) + "\n")
                    print(f"images from {start}: {norm} {kind} {name}: {new['seconds']} s", flush=True)
    for norm in options.norms:
        print(f"\n{norm}\n\n{markdown(stored, norm)}\n", flush=True)


if __name__ == "__main__":
    main()
