"""Checks of radii (N,) of several attacks on the same images. They do not need the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from evaluators.attacks.base import SingleStep
from evaluators.attacks.hop_skip_jump import HopSkipJump
from evaluators.attacks.iterative_ll import IterativeLL
from evaluators.attacks.square import Square
from evaluators.attacks.transfer import Transfer
from evaluators.attacks.uniform_noise import UniformNoise
from evaluators.checks.result import CheckResult, binomial_excess, excess, largest
from evaluators.curves.error_curves import ROUNDING, error_curve
from evaluators.statistics.paired_tests import compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators.attacks.base import Attack
    from evaluators.curves.error_curves import Floats
    from evaluators.norms import Norm

# Largest accepted half-width of the 95 % interval of an error.
HALF_WIDTH = 0.05


def is_black_box(attack: Attack) -> bool:
    """Returns whether an attack is `Square`, `HopSkipJump` or `Transfer`, which use no gradient of the network."""
    return isinstance(attack, Square | HopSkipJump | Transfer)


def is_single_step(attack: Attack) -> bool:
    """Returns whether an attack takes a single gradient step."""
    return isinstance(attack, SingleStep)


def is_many_step(attack: Attack) -> bool:
    """Returns whether an attack takes many gradient steps and should beat a single step; `IterativeLL` need not."""
    return not (is_black_box(attack) or isinstance(attack, SingleStep | UniformNoise | IterativeLL))


def many_steps_beat_one(
    norm: Norm, attacks: Mapping[str, Attack], radii: Mapping[str, Floats], epsilons: Sequence[float]
) -> CheckResult:
    """Checks that no single-step attack fools more images than all many-step attacks of the norm together.

    The check fails if the error of a single-step attack at any epsilon is above that of the many-step attacks by more than
    0.03, beyond chance (McNemar's test).

    Args:
        norm: Norm of the attacks, for the name of the check.
        attacks: Attacks by name, at least one single-step attack and one many-step attack.
        radii: Radii of the images under each attack, (N,) each, by name of the attack.
        epsilons: Epsilons to compare at, in pixel units.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.2: "One-step attacks perform better than iterative attacks."
    """
    singles = {name: r for name, r in radii.items() if is_single_step(attacks[name])}
    worst = np.min(np.stack([r for name, r in radii.items() if is_many_step(attacks[name])]), axis=0)
    # Each single-step attack is compared separately. If some of them fail the check, the evidence is the largest excess of
    # these. Otherwise it is the largest excess of all.
    outcomes = {
        name: largest([excess(single <= e, worst <= e) for e in epsilons], epsilons) for name, single in singles.items()
    }
    name = max(outcomes, key=lambda key: (not outcomes[key][0], outcomes[key][1]["largest_excess"]))
    passed, evidence = outcomes[name]
    return CheckResult(f"many_steps_beat_one_{norm.name}", passed, {"attack": name, **evidence})


def cross_entropy_not_masked(
    norm: Norm, by_cross_entropy: Floats, by_margin: Floats, epsilons: Sequence[float]
) -> CheckResult:
    """Checks that PGD on the margin loss fools no more images than PGD on cross-entropy.

    Cross-entropy depends on the scale of the logits, and the margin does not. If PGD on the margin fools more images, the
    scale of the logits stops PGD on cross-entropy, not robustness. The check fails if the error of PGD on the margin at any
    epsilon is higher by more than 0.03, beyond chance (McNemar's test).

    Args:
        norm: Norm of the attacks, for the name of the check.
        by_cross_entropy: Smallest radius of each image under PGD on cross-entropy, (N,).
        by_margin: Smallest radius of each image under PGD on the margin, (N,).
        epsilons: Epsilons to compare at, in pixel units.

    Source: Carlini and Wagner, "Defensive Distillation is Not Robust to Adversarial Examples", arXiv:1607.04311.
    """
    passed, evidence = largest([excess(by_margin <= e, by_cross_entropy <= e) for e in epsilons], epsilons)
    return CheckResult(f"cross_entropy_not_masked_{norm.name}", passed, evidence)


def black_box_is_weaker(norm: Norm, white: Floats, black: Floats, epsilons: Sequence[float]) -> CheckResult:
    """Checks that black-box attacks fool hardly any image that the white-box attacks do not fool.

    White-box attacks have more information, so they should be stronger. The check fails if at any epsilon more than 5 % of
    all images, and significantly more than 2 % (exact binomial test), are fooled only by black-box attacks.

    Args:
        norm: Norm of the attacks, for the name of the check.
        white: Smallest radius of each image over the white-box attacks, (N,).
        black: Smallest radius of each image over the black-box attacks, (N,).
        epsilons: Epsilons to compare at, in pixel units.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.2: "Black-box attacks are better than white-box attacks."
    """
    counts = [int(((black <= e) & (white > e)).sum()) for e in epsilons]
    passed, evidence = largest([binomial_excess(count, len(white)) for count in counts], epsilons)
    epsilon = float(evidence["epsilon"])
    return CheckResult(
        f"black_box_is_weaker_{norm.name}",
        passed,
        {
            "fooled_by_black_box_alone": evidence["largest_excess"],
            "error_by_white_box": float((white <= epsilon).mean()),
            "epsilon": epsilon,
            "p_value": evidence["p_value"],
        },
    )


def enough_images(worst: Floats, epsilons: Sequence[float], limit: float = HALF_WIDTH) -> CheckResult:
    """Checks that there are enough images to measure the error at every epsilon.

    The check fails if the half-width of the exact 95 % interval is above `limit` at any epsilon. A limit of 0.05 needs about
    400 images where the error is near 0.5.

    Args:
        worst: Smallest radius of each image over all attacks of a norm, (N,).
        epsilons: Epsilons of the errors, in pixel units.
        limit: Largest accepted half-width, as a share between 0 and 1.

    Raises:
        ValueError: there are no radii, or a radius or an epsilon is negative or NaN.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
    """
    curve = error_curve(worst, epsilons)
    widths = (curve.error_interval[:, 1] - curve.error_interval[:, 0]) / 2
    widest = int(np.argmax(widths))
    return CheckResult(
        "enough_images",
        bool(widths[widest] <= limit),
        {"images": curve.n, "half_width": float(widths[widest]), "limit": limit, "epsilon": float(epsilons[widest])},
    )


def comparison_resolved(first: Floats, second: Floats, epsilon: float) -> CheckResult:
    """Checks that the errors of two networks at epsilon differ significantly, at the level 0.05 (McNemar's test).

    The evidence holds the number of images needed for the measured difference, by the normal approximation of the test.

    Args:
        first: Radii of the first network, (N,).
        second: Radii of the second network on the same images, (N,).
        epsilon: Epsilon of the errors, in pixel units.

    Raises:
        ValueError: the numbers of images differ or are 0, or a radius or epsilon is negative or NaN.
    """
    comparison = compare(first, second, epsilon)
    differing = float(((first <= epsilon * ROUNDING) != (second <= epsilon * ROUNDING)).mean())
    needed = math.ceil(1.96**2 * differing / comparison.difference**2) if comparison.difference else "infinitely many"
    return CheckResult(
        "comparison_resolved",
        comparison.p_value < 0.05,
        {
            "difference": comparison.difference,
            "p_value": comparison.p_value,
            "images": comparison.n,
            "images_needed": needed,
        },
    )
