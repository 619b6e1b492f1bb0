"""Estimates of the passes through a network that the stages of a profile need.

The estimates only weigh the stages until their seconds are measured. The constants are rounded from counts on a network of
tests/benchmarks/cifar_networks.py.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from evaluators.attacks import Attack, AttackEnsemble, MinimumNorm, SingleStep
from evaluators.checks.run import SUBSET
from evaluators.corruptions import CORRUPTIONS
from evaluators.profiles.workload import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators.curves.error_curves import Floats
    from evaluators.profiles.options import ProfileOptions

# A gradient takes about as long as three forward passes, and a further gradient of the same logits as two.
GRADIENT, FURTHER_GRADIENT = 3.0, 2.0
# Passes of the checks for each image that they use: once, and for each norm.
CHECKS, CHECKS_OF_NORM = 150.0, 350.0
# Before the network and the grid are known: number of classes, and epsilons at which an image is attacked.
CLASSES, ATTEMPTS = 10, 6.5
# Settings whose product is the number of gradients of one run.
_FACTORS = ("steps", "targets", "cycles", "restarts")


def stages_of(n: int, attacks: Mapping[str, Attack], options: ProfileOptions) -> dict[str, Stage]:
    """Returns the stages of a profile of n images, before anything is measured: each with its estimated passes."""
    few, norms = min(n, SUBSET), {attack.norm.name for attack in attacks.values()}
    stages = {"clean": Stage("margins", n, 1), "margins": Stage("margins", n, passes_of_margins(CLASSES))}
    stages |= {stage_of(name): Stage(name, n, passes_of_attack(attack, ATTEMPTS)) for name, attack in attacks.items()}
    stages |= {
        "check network": Stage("checks", few, CHECKS),
        "check attacks": Stage("checks", few, CHECKS_OF_NORM * len(norms)),
    }
    if options.corruptions:
        stages["corruptions"] = Stage("corruptions", n, 1 + sum(len(levels) for _, levels in CORRUPTIONS.values()))
    if options.smoothing is not None:
        stages["certificates"] = Stage("certificates", n, 1 + options.smoothing.n0 + options.smoothing.n)
    return stages


def stage_of(attack: str) -> str:
    """Returns the key of the stage of an attack, by its name. It differs from the keys of all other stages."""
    return f"attack {attack}"


def passes_of_attack(attack: Attack, attempts: float, *, downwards: bool = False) -> float:
    """Returns the estimated passes of an attack for each correctly classified image.

    A run takes the gradients that the settings `steps`, `targets`, `cycles` and `restarts` give, or the `queries`. A
    minimum-norm attack runs once.

    Args:
        attack: Any attack.
        attempts: Number of epsilons at which an image is attacked.
        downwards: Whether only the epsilons just below known radii are tried, as in `AttackEnsemble.downwards`.
    """
    if isinstance(attack, AttackEnsemble):
        members = enumerate(attack.members())
        return sum(passes_of_attack(each, attempts, downwards=attack.downwards and n > 0) for n, each in members)
    if isinstance(attack, SingleStep):
        return GRADIENT + attempts
    inner = getattr(attack, "attack", None)
    if isinstance(inner, Attack):
        run = passes_of_attack(inner, 1)
    elif hasattr(attack, "queries"):
        run = float(_count(attack, "queries"))
    else:
        run = GRADIENT * prod(_count(attack, name) for name in _FACTORS)
    return run if downwards or isinstance(attack, MinimumNorm) else run * attempts


def attempts_of(first_order: Floats, grid: Sequence[float]) -> float:
    """Returns the estimated number of epsilons at which a correctly classified image is attacked, in ascending order.

    Args:
        first_order: First-order radii, in pixel units, (N,).
        grid: Epsilons, in pixel units, ascending.
    """
    known = first_order[(first_order > 0) & np.isfinite(first_order)]
    if len(known) == 0:
        return len(grid) / 2
    return float(np.minimum(np.searchsorted(np.asarray(grid), known) + 1, len(grid)).mean())


def passes_of_margins(classes: int) -> float:
    """Returns the estimated passes of the margins for each image: one gradient for each wrong class."""
    return GRADIENT + FURTHER_GRADIENT * max(classes - 2, 0)


def _count(attack: Attack, name: str) -> int:
    value = getattr(attack, name, 1)
    return value if isinstance(value, int) else 1
