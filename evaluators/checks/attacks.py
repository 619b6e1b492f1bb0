"""Checks that attack again: where an attack that should find no more, or all there is, does otherwise.

All of them work on a `PreparedNetwork` of a few hundred images, and on radii (N,) that were measured on the same images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from evaluators.attacks.losses import margin
from evaluators.attacks.pgd import PGD
from evaluators.attacks.square import Square
from evaluators.attacks.uniform_noise import UniformNoise
from evaluators.checks.radii import black_box_is_weaker
from evaluators.checks.result import CheckResult, binomial_excess, excess, largest
from evaluators.radius import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evaluators.attacks.base import Attack
    from evaluators.curves.error_curves import Floats
    from evaluators.engine.prepared import PreparedNetwork
    from evaluators.norms import Norm

QUERIES = 200


def reaches_chance(prepared: PreparedNetwork) -> CheckResult:
    """Passes if an unbounded attack (L-infinity, epsilon 0.5, PGD-40 on the margin) brings the error to chance or above.

    A grey image is within 0.5 of every image, so a working attack must get there.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.2: unbounded attacks reach 100 %.
    """
    attack = PGD(loss=margin, steps=40, step_size=0.1)
    error = float((measure(prepared, attack, [0.5]) <= 0.5).double().mean())
    chance = 1 - 1 / prepared.logits.shape[1]
    return CheckResult("reaches_chance", error >= chance, {"error": error, "chance": chance, "epsilon": 0.5})


def noise_is_weaker(prepared: PreparedNetwork, norm: Norm, worst: Floats, epsilons: Sequence[float]) -> CheckResult:
    """Passes if random noise finds no more than the attacks, whose worst radii are given, at any epsilon.

    The rule: no excess beyond chance (McNemar's test) and a tolerance of 0.03.

    Source: Carlini et al., arXiv:1902.06705, section 4.3; Athalye et al., ICML 2018, section 3.2, random sampling.
    """
    noise = measure(prepared, UniformNoise(norm=norm), epsilons).numpy()
    passed, evidence = largest([excess(noise <= e, worst <= e) for e in epsilons], epsilons)
    return CheckResult(f"noise_is_weaker_{norm.name}", passed, evidence)


def enough_steps(prepared: PreparedNetwork, name: str, attack: Attack, worst: Floats, epsilon: float) -> CheckResult:
    """Passes if an attack given four times its steps (twice from 26 on) fools hardly any image that none fooled before.

    The rule: at epsilon at most 5 % of all images are newly fooled, or not more than 2 % beyond chance: some always are.

    Source: Carlini et al., arXiv:1902.06705, section 4.4: attacks must be run until they have converged.

    Args:
        prepared: The network and N images.
        name: The attack's name, for the evidence.
        attack: One with a setting `steps`.
        worst: Smallest radius of each image over all attacks of the norm, (N,).
        epsilon: At which to attack.
    """
    steps: int = attack.steps  # type: ignore[attr-defined]  # promised
    longer = 4 * steps if steps <= 25 else 2 * steps
    lengthened: Attack = replace(attack, steps=longer)  # type: ignore[type-var]  # every attack is a dataclass
    newly_fooled = binomial_excess(int(_besides(prepared, lengthened, worst, epsilon).sum()), len(worst))
    return CheckResult(
        f"enough_steps_{attack.norm.name}",
        not newly_fooled.is_finding(),
        {
            "attack": name,
            "steps": steps,
            "longer": longer,
            "error": float((worst <= epsilon).mean()),
            "newly_fooled": newly_fooled.share,
            "epsilon": epsilon,
            "p_value": newly_fooled.p_value,
        },
    )


def square_is_weaker(prepared: PreparedNetwork, norm: Norm, worst: Floats, epsilon: float) -> CheckResult:
    """Passes if a Square attack of 200 queries fools hardly any image that no other attack did: `black_box_is_weaker`.

    Args:
        prepared: The network and N images (N, C, H, W).
        norm: Shape of the ball.
        worst: Smallest radius of each image over the other attacks, (N,): what they fooled is not attacked.
        epsilon: At which to attack.
    """
    fooled = _besides(prepared, Square(norm=norm, queries=QUERIES), worst, epsilon)
    check = black_box_is_weaker(norm, worst, np.where(fooled, epsilon, np.inf), [epsilon])
    return replace(check, name=f"square_is_weaker_{norm.name}")


def white_box_is_weaker(prepared: PreparedNetwork, norm: Norm, worst: Floats, epsilon: float) -> CheckResult:
    """Passes if PGD-20 on the margin fools hardly any image that noise and black-box attacks, all that was run, did not.

    An attack that may use gradients knows more: where it finds more, the others were no measure of robustness. The rule: at
    epsilon at most 5 % of all images are newly fooled, or not more than 2 % beyond chance.

    Source: Carlini et al., arXiv:1902.06705, section 4.3: evaluate with the strongest attacks the threat model allows.

    Args:
        prepared: The network and N images.
        norm: Shape of the ball.
        worst: Smallest radius of each image over all attacks, (N,).
        epsilon: At which to attack.
    """
    newly_fooled = binomial_excess(
        int(_besides(prepared, PGD(norm=norm, loss=margin, steps=20), worst, epsilon).sum()), len(worst)
    )
    return CheckResult(
        f"white_box_is_weaker_{norm.name}",
        not newly_fooled.is_finding(),
        {
            "error": float((worst <= epsilon).mean()),
            "newly_fooled": newly_fooled.share,
            "epsilon": epsilon,
            "p_value": newly_fooled.p_value,
        },
    )


def _besides(prepared: PreparedNetwork, attack: Attack, worst: Floats, epsilon: float) -> NDArray[np.bool_]:
    """Returns which images an attack fools at epsilon whose worst radius so far is larger, (N,); no other is attacked."""
    radii = measure(prepared, attack, [epsilon], known=torch.from_numpy(worst)).numpy()
    return np.asarray((radii <= epsilon) & (worst > epsilon))
