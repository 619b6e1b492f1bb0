"""Checks that run an additional attack and compare it with the measured radii, or with chance.

All of them take a `PreparedNetwork` with a few hundred images. All except `reaches_chance` also take radii (N,) of the same
images.
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
from evaluators.radius.measure import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evaluators.attacks.base import Attack
    from evaluators.curves.error_curves import Floats
    from evaluators.engine.prepared import PreparedNetwork
    from evaluators.norms import Norm

QUERIES = 200


def reaches_chance(prepared: PreparedNetwork) -> CheckResult:
    """Checks that an unbounded attack (PGD-40 on the margin, L-infinity, epsilon 0.5) brings the error to chance or above.

    A grey image lies within 0.5 of every image, so a working attack reaches chance.

    Args:
        prepared: The network and N images.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.2: unbounded attacks reach 100 %.
    """
    attack = PGD(loss=margin, steps=40, step_size=0.1)
    error = float((measure(prepared, attack, [0.5]) <= 0.5).double().mean())
    chance = 1 - 1 / prepared.logits.shape[1]
    return CheckResult("reaches_chance", error >= chance, {"error": error, "chance": chance, "epsilon": 0.5})


def noise_is_weaker(prepared: PreparedNetwork, norm: Norm, worst: Floats, epsilons: Sequence[float]) -> CheckResult:
    """Checks that random noise fools no more images than the attacks at any epsilon.

    The check fails if the error under noise is above the error under the attacks by more than 0.03, beyond chance (McNemar's
    test).

    Args:
        prepared: The network and N images.
        norm: Shape of the ball.
        worst: Smallest radius of each image over all attacks of the norm, (N,).
        epsilons: Epsilons to compare at, in pixel units.

    Source: Carlini et al., arXiv:1902.06705, section 4.3; Athalye et al., ICML 2018, section 3.2, random sampling.
    """
    noise = measure(prepared, UniformNoise(norm=norm), epsilons).numpy()
    passed, evidence = largest([excess(noise <= e, worst <= e) for e in epsilons], epsilons)
    return CheckResult(f"noise_is_weaker_{norm.name}", passed, evidence)


def enough_steps(prepared: PreparedNetwork, name: str, attack: Attack, worst: Floats, epsilon: float) -> CheckResult:
    """Checks that an attack with four times its steps (twice above 25 steps) fools hardly any additional image.

    The check fails if the attack newly fools more than 5 % of all images, and significantly more than 2 % (exact binomial
    test). A few additional images are normal for any second attack.

    Args:
        prepared: The network and N images.
        name: Name of the attack, for the evidence.
        attack: An attack with a setting `steps`.
        worst: Smallest radius of each image over all attacks of the norm, (N,).
        epsilon: Epsilon of the longer attack, in pixel units.

    Source: Carlini et al., arXiv:1902.06705, section 4.4: attacks must be run until they have converged.
    """
    steps: int = attack.steps  # type: ignore[attr-defined]  # see Args
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
    """Checks that a Square attack with 200 queries fools hardly any image that no other attack fools.

    The rule is that of `black_box_is_weaker`.

    Args:
        prepared: The network and N images (N, C, H, W).
        norm: Shape of the ball.
        worst: Smallest radius of each image over the other attacks, (N,). Images that they fool are not attacked.
        epsilon: Epsilon of the Square attack, in pixel units.
    """
    fooled = _besides(prepared, Square(norm=norm, queries=QUERIES), worst, epsilon)
    check = black_box_is_weaker(norm, worst, np.where(fooled, epsilon, np.inf), [epsilon])
    return replace(check, name=f"square_is_weaker_{norm.name}")


def white_box_is_weaker(prepared: PreparedNetwork, norm: Norm, worst: Floats, epsilon: float) -> CheckResult:
    """Checks that PGD-20 on the margin fools hardly any image that noise and black-box attacks do not fool.

    The check is for evaluations without gradient-based attacks. If PGD fools more images, such an evaluation does not
    measure robustness. The check fails if PGD newly fools more than 5 % of all images, and significantly more than 2 %
    (exact binomial test).

    Args:
        prepared: The network and N images.
        norm: Shape of the ball.
        worst: Smallest radius of each image over all attacks, (N,).
        epsilon: Epsilon of PGD, in pixel units.

    Source: Carlini et al., arXiv:1902.06705, section 4.3: evaluate with the strongest attacks the threat model allows.
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
    """Returns which images are newly fooled at epsilon, (N,). Images already fooled at epsilon are not attacked again."""
    radii = measure(prepared, attack, [epsilon], known=torch.from_numpy(worst)).numpy()
    return np.asarray((radii <= epsilon) & (worst > epsilon))
