"""Compares our attacks with those of foolbox, torchattacks and pyautoattack, on the same networks, images and epsilons.

    python tests/benchmarks/attacks.py [curve] [fgsm] [single] [autoattack] [nearest] [strong] [--images 512] [--rounds 3]

The networks are two small residual networks trained on CIFAR-10, normally and adversarially. The part `strong` has two
more, with misleading gradients (`cifar_networks.py`). Each part prints one JSON object per network, with errors, seconds and
ratios of seconds. For curve, fgsm and single, all libraries run in each of several rounds, and the seconds are medians over
the rounds.

- curve: PGD-20 over 8 epsilons. Goals: FastPGD is 20 times as fast as the other libraries on the normally trained network,
  and 8 times as fast on the other one, with no lower error. PGD, which takes no shortcuts, is 12 and 4 times as fast.
- fgsm: FGSM over 16 epsilons. Goal: 4 times as fast, with equal errors.
- single: four attacks at one epsilon. Goal: equal pixels, and not slower.
- autoattack: AutoAttack at 4 epsilons. Goal: a quarter of the time, and an error that is at most 0.2 points lower.
- nearest: minimum-norm attacks. Goal: no larger median radii.
- strong: Strong and AutoAttack at 2 epsilons in three norms, by seconds of the CPU. Goals: a tenth of the time, and at no
  epsilon a lower error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from cifar_networks import CACHE, NETWORKS, images, network
from torch import nn

from evaluators import (
    BIM,
    DDN,
    FGSM,
    FMN,
    L2,
    PGD,
    AutoAttack,
    DeepFool,
    EpsilonGrid,
    Linf,
    MinimumNormEnsemble,
    StepLL,
    radii,
)
from evaluators.attacks import FastPGD, Strong, SuperDeepFool, TrustRegion
from evaluators.norms import L1

# Epsilons of the curve of both networks: the usual range of papers on CIFAR-10.
CURVE = [k / 255 for k in range(1, 9)]
AUTOATTACK = [k / 255 for k in (1, 2, 4, 8)]
SINGLE = {"normal": 1 / 255, "adversarial": 8 / 255}
STRONG = {
    "linf": {"normal": (0.5 / 255, 1 / 255), "robust": (4 / 255, 8 / 255)},
    "l2": {"normal": (0.05, 0.1), "robust": (0.25, 0.5)},
    "l1": {"normal": (1.0, 2.0), "robust": (6.0, 12.0)},
}


def timed(function):
    """Returns the result of a function and the seconds that it takes. Its output and its warnings are suppressed."""
    started = time.perf_counter()
    result = quiet(function)
    return result, time.perf_counter() - started


def quiet(function):
    """Returns the result of a function. Its output and its warnings are suppressed."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def in_turn(functions, rounds):
    """Returns the result and the median seconds of each function, by name. Each round runs every function once."""
    results, seconds = {}, {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            results[name], spent = timed(function)
            seconds[name].append(spent)
    return results, {name: statistics.median(spent) for name, spent in seconds.items()}


def errors(image_radii, epsilons):
    """Returns the adversarial error at each epsilon, of radii (N,)."""
    return [float((image_radii <= epsilon * (1 + 1e-6)).double().mean()) for epsilon in epsilons]


def error_of(net, points, y):
    """Returns the share of points that are misclassified."""
    with torch.no_grad():
        return float((torch.cat([net(batch) for batch in points.split(256)]).argmax(1) != y).double().mean())


def compared(seconds, ours="ours"):
    """Returns the seconds of all libraries, and their ratios to the seconds of our attack."""
    ratio = {name: round(value / seconds[ours], 2) for name, value in seconds.items() if name != ours}
    return {"seconds": {name: round(value, 2) for name, value in seconds.items()}, "ratio": ratio}


def sweep(net, x, y, attack, foolbox_attack, make_torchattack, epsilons, rounds, fast=None):
    """Compares error curves: ours from `radii`, foolbox's with a list of epsilons, torchattacks' with a run per epsilon.

    If `fast` is given, the error curve of this attack is measured in the same rounds.
    """
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), preprocessing=None)
    results, seconds = in_turn(
        {
            "ours": lambda: radii(net, x, y, attack, epsilons),
            **({"fast": lambda: radii(net, x, y, fast, epsilons)} if fast else {}),
            "foolbox": lambda: _foolbox(foolbox_attack, model, x, y, epsilons),
            "torchattacks": lambda: [_torchattack(make_torchattack(net, e), x, y) for e in epsilons],
        },
        rounds,
    )
    by_peer = {
        name: errors(outcome, epsilons) if name in ("ours", "fast") else [error_of(net, points, y) for points in outcome]
        for name, outcome in results.items()
    }
    least = min(o - max(f, t) for o, f, t in zip(by_peer["ours"], by_peer["foolbox"], by_peer["torchattacks"], strict=True))
    fast_errors = by_peer.pop("fast", None)
    peer_seconds = {name: seconds[name] for name in ("foolbox", "torchattacks")}
    largest = max(max(abs(o - f), abs(o - t)) for o, f, t in zip(*by_peer.values(), strict=True))
    report = {
        "errors": {name: [round(e, 4) for e in values] for name, values in by_peer.items()},
        "least_excess_of_our_error": round(least, 4),
        "largest_difference": round(largest, 4),
        **compared({"ours": seconds["ours"], **peer_seconds}),
    }
    if fast:
        by_epsilon = zip(fast_errors, by_peer["foolbox"], by_peer["torchattacks"], strict=True)
        report["fast"] = {
            "attack": type(fast).__name__,
            "errors": [round(e, 4) for e in fast_errors],
            "least_excess": round(min(o - max(f, t) for o, f, t in by_epsilon), 4),
            **compared({"fast": seconds["fast"], **peer_seconds}, "fast"),
        }
    return report


def _foolbox(attack, model, x, y, epsilons, criterion=lambda labels: labels):
    """Returns foolbox's points for each epsilon, in batches of 256 images."""
    pairs = zip(x.split(256), y.split(256), strict=True)
    parts = [attack(model, a, criterion(b), epsilons=epsilons)[1] for a, b in pairs]
    return [torch.cat([part[k] for part in parts]) for k in range(len(epsilons))]


def _torchattack(attack, x, y):
    return torch.cat([attack(a, b) for a, b in zip(x.split(256), y.split(256), strict=True)])


def curve(kind, net, x, y, rounds):
    """Compares PGD-20 over 8 epsilons, without a random start."""
    import foolbox
    import torchattacks

    return sweep(
        net, x, y,
        PGD(steps=20, step_size=0.125, random_start=False),
        foolbox.attacks.LinfPGD(steps=20, rel_stepsize=0.125, random_start=False),
        lambda n, e: torchattacks.PGD(n, eps=e, alpha=e / 8, steps=20, random_start=False),
        CURVE, rounds, FastPGD(),
    )  # fmt: skip


def fgsm(kind, net, x, y, rounds):
    """Compares FGSM over 16 epsilons."""
    import foolbox
    import torchattacks

    epsilons = np.geomspace(CURVE[0] / 4, CURVE[-1], 16).tolist()
    return sweep(
        net,
        x,
        y,
        FGSM(),
        foolbox.attacks.LinfFastGradientAttack(),
        lambda n, e: torchattacks.FGSM(n, eps=e),
        epsilons,
        rounds,
    )


def single(kind, net, x, y, rounds):
    """Compares pixels and speed of four attacks at one epsilon."""
    import foolbox
    import torchattacks

    epsilon, attacks = SINGLE[kind], foolbox.attacks
    model = foolbox.PyTorchModel(net, bounds=(0, 1), preprocessing=None)
    with torch.no_grad():
        least_likely = torch.cat([net(batch) for batch in x.split(256)]).argmin(1)
    targeted_fgsm = torchattacks.FGSM(net, eps=epsilon)
    targeted_fgsm.set_mode_targeted_by_label(quiet=True)
    step = {"steps": 20, "rel_stepsize": 0.125}
    peer = {"eps": epsilon, "alpha": epsilon / 8, "steps": 20}
    same, targeted = (lambda labels: labels), foolbox.criteria.TargetedMisclassification
    trios = {
        "fgsm": (FGSM(), attacks.LinfFastGradientAttack(), torchattacks.FGSM(net, eps=epsilon), y, same),
        "step_ll": (
            StepLL(),
            attacks.LinfBasicIterativeAttack(steps=1, rel_stepsize=1.0),
            targeted_fgsm,
            least_likely,
            targeted,
        ),
        "bim": (
            BIM(steps=20, step_size=0.125),
            attacks.LinfBasicIterativeAttack(**step),
            torchattacks.BIM(net, **peer),
            y,
            same,
        ),
        "pgd": (
            PGD(steps=20, step_size=0.125, random_start=False),
            attacks.LinfPGD(**step, random_start=False),
            torchattacks.PGD(net, **peer, random_start=False),
            y,
            same,
        ),
    }
    comparisons = {}
    for name, (attack, of_foolbox, of_torchattacks, labels, criterion) in trios.items():
        points, seconds = in_turn(
            {
                "ours": lambda a=attack: torch.cat(
                    [a(net, p, q, epsilon) for p, q in zip(x.split(256), y.split(256), strict=True)]
                ),
                "foolbox": lambda a=of_foolbox, t=labels, c=criterion: _foolbox(a, model, x, t, [epsilon], c)[0],
                "torchattacks": lambda a=of_torchattacks, t=labels: _torchattack(a, x, t),
            },
            rounds,
        )
        ours = points.pop("ours")
        difference = {peer: float((ours - theirs).abs().max()) for peer, theirs in points.items()}
        comparisons[name] = {"largest_pixel_difference": difference, **compared(seconds)}
    return comparisons


def autoattack(kind, net, x, y, rounds):
    """Compares our ensemble over 4 epsilons with runs of pyautoattack's standard ensemble, one per epsilon."""
    from pyautoattack import AutoAttack as Theirs

    epsilons = AUTOATTACK
    image_radii, ours = timed(lambda: radii(net, x, y, AutoAttack(), epsilons))
    by_epsilon, seconds = [], 0.0
    for epsilon in epsilons:
        attack = Theirs(net, norm="Linf", eps=epsilon, version="standard", seed=0)
        result, spent = timed(lambda a=attack: a.run_standard_evaluation(x, y, batch_size=256))
        points = result if isinstance(result, torch.Tensor) else result[0]
        by_epsilon.append(error_of(net, points, y))
        seconds += spent
    our_errors = errors(image_radii, epsilons)
    return {
        "errors": {"ours": our_errors, "pyautoattack": by_epsilon},
        "least_excess_of_our_error": min(a - b for a, b in zip(our_errors, by_epsilon, strict=True)),
        **compared({"ours": ours, "pyautoattack": seconds}),
    }


def strong(kind, net, x, y, rounds):
    """Compares Strong with runs of pyautoattack's standard ensemble, in three norms. Seconds are those of the CPU."""
    from pyautoattack import AutoAttack as Theirs

    results = {}
    for norm, name in ((Linf(), "Linf"), (L2(), "L2"), (L1(), "L1")):
        epsilons = STRONG[norm.name]["normal" if kind == "normal" else "robust"]
        started = time.process_time()
        image_radii = quiet(lambda n=norm, e=epsilons: radii(net, x, y, Strong(norm=n), e))
        ours = time.process_time() - started
        fooled, started = [], time.process_time()
        for epsilon in epsilons:
            attack = Theirs(net, norm=name, eps=epsilon, version="standard", seed=0)
            result = quiet(lambda a=attack: a.run_standard_evaluation(x, y, batch_size=256))
            points = result if isinstance(result, torch.Tensor) else result[0]
            with torch.no_grad():
                fooled.append(net(points).argmax(1) != y)
        theirs = time.process_time() - started
        found = [image_radii <= epsilon * (1 + 1e-6) for epsilon in epsilons]
        results[norm.name] = {
            "epsilons": [round(epsilon, 5) for epsilon in epsilons],
            "errors": {
                "ours": [float(f.double().mean()) for f in found],
                "pyautoattack": [float(f.double().mean()) for f in fooled],
            },
            "missed_by_ours": [int((b & ~a).sum()) for a, b in zip(found, fooled, strict=True)],
            "missed_by_pyautoattack": [int((a & ~b).sum()) for a, b in zip(found, fooled, strict=True)],
            **compared({"ours": ours, "pyautoattack": theirs}),
        }
    return results


def nearest(kind, net, x, y, rounds):
    """Compares the median radii of minimum-norm attacks, by norm."""
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), preprocessing=None)
    with torch.no_grad():
        right = torch.cat([net(batch) for batch in x.split(256)]).argmax(1) == y
    x, y = x[right], y[right]
    attacks = foolbox.attacks
    peers = {
        "linf": {"deepfool": attacks.LinfDeepFoolAttack(), "fmn": attacks.LInfFMNAttack()},
        "l2": {"deepfool": attacks.L2DeepFoolAttack(), "ddn": attacks.DDNAttack(), "fmn": attacks.L2FMNAttack()},
    }
    results = {}
    for norm, grid in ((Linf(), [1 / 255, 4 / 255, 16 / 255, 64 / 255, 1.0]), (L2(), [0.05, 0.2, 0.8, 3.2, 12.8])):
        our_attacks = {
            "nearest": MinimumNormEnsemble(norm=norm),
            "deepfool": DeepFool(norm=norm),
            "super_deepfool": SuperDeepFool(norm=norm),
            "trust_region": TrustRegion(norm=norm),
            "fmn": FMN(norm=norm),
            "bisected_pgd": PGD(norm=norm, steps=100, step_size=0.1),
        } | ({"ddn": DDN()} if isinstance(norm, L2) else {})
        medians, seconds = {}, {}
        for name, attack in our_attacks.items():
            image_radii, seconds[f"ours: {name}"] = timed(
                lambda a=attack, g=grid: radii(net, x, y, a, EpsilonGrid(epsilons=g, tolerance=0.01))
            )
            medians[f"ours: {name}"] = float(image_radii.quantile(0.5, interpolation="higher"))
        for name, attack in peers[norm.name].items():
            parts, spent = timed(
                lambda a=attack: [a(model, p, q, epsilons=None) for p, q in zip(x.split(256), y.split(256), strict=True)]
            )
            points, ok = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
            size = torch.where(ok, norm.size(points - x), torch.inf)
            medians[f"foolbox: {name}"] = float(size.quantile(0.5, interpolation="higher"))
            seconds[f"foolbox: {name}"] = spent
        results[norm.name] = {"medians": medians, "seconds": {name: round(s, 2) for name, s in seconds.items()}}
    return results


PARTS = {part.__name__: part for part in (curve, fgsm, single, autoattack, nearest, strong)}


def main() -> None:
    """Runs the selected parts and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run, of {', '.join(PARTS)}; all by default")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of curve, fgsm and single")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, help="networks; the default depends on the part")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shared = Path(os.environ.get("HARDCELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    archive = shared / "cifar10-jpeg.tar.xz"
    test = images(archive, options.cache)[1].first(options.images)
    for name in options.parts or PARTS:
        for kind in options.networks or (NETWORKS if name == "strong" else NETWORKS[:2]):
            net: nn.Module = network(kind, archive, options.cache)
            print(
                json.dumps(
                    {
                        "part": name,
                        "network": kind,
                        "images": len(test.x),
                        **PARTS[name](kind, net, test.x, test.y, options.rounds),
                    },
                    indent=1,
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
