"""Checks of numbers alone: radii (N,) of several attacks on the same images, whatever network they come from."""

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
from evaluators.curves.error_curves import error_curve
from evaluators.statistics.paired_tests import compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators.attacks.base import Attack
    from evaluators.curves.error_curves import Floats
    from evaluators.norms import Norm

# Half of the 95 % interval of an error must not be wider than this.
HALF_WIDTH = 0.05


def is_black_box(attack: Attack) -> bool:
    """Returns whether an attack asks the network for logits or decisions, or nothing, but for no gradient."""
    return isinstance(attack, Square | HopSkipJump | Transfer)


def is_single_step(attack: Attack) -> bool:
    """Returns whether an attack follows one gradient for one step."""
    return isinstance(attack, SingleStep)


def is_many_step(attack: Attack) -> bool:
    """Returns whether an attack follows gradients for many steps, to any class: what should beat a single step."""
    return not (is_black_box(attack) or isinstance(attack, SingleStep | UniformNoise | IterativeLL))


def many_steps_beat_one(
    norm: Norm, attacks: Mapping[str, Attack], radii: Mapping[str, Floats], epsilons: Sequence[float]
) -> CheckResult:
    """Passes if no single-step attack finds more than all many-step attacks of one norm together.

    The rule: no excess at any epsilon beyond chance (McNemar's test) and a tolerance of 0.03.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.2: one-step attacks perform better than iterative attacks.
    """
    singles = {name: r for name, r in radii.items() if is_single_step(attacks[name])}
    worst = np.min(np.stack([r for name, r in radii.items() if is_many_step(attacks[name])]), axis=0)
    # Each is held against the many-step attacks alone: the most telling one is shown.
    outcomes = {
        name: largest([excess(single <= e, worst <= e) for e in epsilons], epsilons) for name, single in singles.items()
    }
    name = max(outcomes, key=lambda key: (not outcomes[key][0], outcomes[key][1]["largest_excess"]))
    passed, evidence = outcomes[name]
    return CheckResult(f"many_steps_beat_one_{norm.name}", passed, {"attack": name, **evidence})


def cross_entropy_not_masked(
    norm: Norm, by_cross_entropy: Floats, by_margin: Floats, epsilons: Sequence[float]
) -> CheckResult:
    """Passes if PGD on the margin loss finds no more than PGD on cross-entropy.

    Cross-entropy depends on the scale of the logits and the margin does not: a difference says that the scale, not
    robustness, holds the cross-entropy attack off. The rule: no excess at any epsilon beyond chance (McNemar's test) and a
    tolerance of 0.03.

    Source: Carlini and Wagner, "Defensive Distillation is Not Robust to Adversarial Examples", arXiv:1607.04311.
    """
    passed, evidence = largest([excess(by_margin <= e, by_cross_entropy <= e) for e in epsilons], epsilons)
    return CheckResult(f"cross_entropy_not_masked_{norm.name}", passed, evidence)


def black_box_is_weaker(norm: Norm, white: Floats, black: Floats, epsilons: Sequence[float]) -> CheckResult:
    """Passes if a black-box attack fools hardly any image that the white-box attacks did not: they know more.

    The rule: at no epsilon has it fooled more than 5 % of all images besides those, and more than 2 % beyond chance.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.2: black-box attacks are better than white-box attacks.

    Args:
        norm: Shape of the ball.
        white: Smallest radius of each image over the white-box attacks, (N,).
        black: The same over the black-box attacks, (N,).
        epsilons: At which to compare.
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
    """Passes if the errors are known well: half of the exact 95 % interval is at most `limit`, at every epsilon.

    With the limit of 0.05 that takes about 400 images where the error is near one half.

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
    """Passes if the images suffice to tell two networks' errors at epsilon apart, at the level 0.05 (McNemar's test).

    The evidence says how many would be needed were the shares of images those found, by the test's normal approximation.

    Raises:
        ValueError: the two have different numbers of images.
    """
    comparison = compare(first, second, epsilon)
    differing = float(((first <= epsilon) != (second <= epsilon)).mean())
    needed = math.ceil(1.96**2 * differing / comparison.difference**2) if comparison.difference else "more than any number"
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
