"""Ways in which a robustness claim fools its author, each looked for, each with its evidence.

Source of the list: Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705, and Athalye, Carlini and
Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018, arXiv:1802.00420.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evaluators.attacks import PGD, Attack, SingleStep, UniformNoise, margin
from evaluators.attacks.target import frozen
from evaluators.radii import radii
from evaluators.subject import predict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from evaluators.curve import Floats
    from evaluators.margins import Margins
    from evaluators.norms import Norm

SUBSET = 256
# How far one attack's error may exceed another's, that should be the stronger, before the difference is a finding.
TOLERANCE = 0.03


@final
@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: What was looked for.
        passed: Whether nothing was found.
        evidence: The numbers on which the answer rests, by name.
    """

    name: str
    passed: bool
    evidence: dict[str, float | str]


def deterministic(network: nn.Module, x: Tensor) -> Check:
    """Passes if two passes over the same images x give the same logits; a randomised network hides its gradients."""
    with frozen(network):
        difference = float((predict(network, x[:SUBSET]) - predict(network, x[:SUBSET])).abs().max())
    return Check("deterministic", difference <= 1e-5, {"largest_logit_difference": difference})


def logits_not_probabilities(network: nn.Module, x: Tensor) -> Check:
    """Passes unless the outputs look like probabilities: a softmax at the end starves cross-entropy of gradients."""
    with frozen(network):
        outputs = predict(network, x[:SUBSET])
    positive = bool((outputs >= 0).all())
    off_one = float((outputs.sum(1) - 1).abs().max())
    return Check(
        "logits_not_probabilities",
        not (positive and off_one < 1e-3),
        {"smallest_output": float(outputs.min()), "largest_distance_of_sum_from_1": off_one},
    )


def gradients_alive(found: Margins) -> Check:
    """Passes if at most 1 % of the right images have margins without any gradient."""
    return Check("gradients_alive", found.gradient_free <= 0.01, {"share_without_gradient": found.gradient_free})


def reaches_chance(network: nn.Module, x: Tensor, y: Tensor, classes: int) -> Check:
    """Passes if an unbounded attack (L-infinity, epsilon 0.5, margin loss) brings the error to chance or above.

    A grey image is within 0.5 of every image, so a working attack must get there.
    """
    attack = PGD(loss=margin, steps=40, step_size=0.1)
    found = radii(network, x[:SUBSET], y[:SUBSET], attack, [0.5])
    error, chance = float((found <= 0.5).double().mean()), 1 - 1 / classes
    return Check("reaches_chance", error >= chance, {"error_at_0.5": error, "chance": chance})


def noise_is_weaker(
    network: nn.Module, x: Tensor, y: Tensor, norm: Norm, attacked: Mapping[str, Floats], epsilons: Sequence[float]
) -> Check:
    """Passes if random noise never beats the worst of the attacks of the same norm by more than the tolerance."""
    noise = radii(network, x, y, UniformNoise(norm=norm), epsilons).numpy()
    worst = np.min(np.stack(list(attacked.values())), axis=0)
    excess, epsilon = _largest_excess(noise, worst, epsilons)
    return Check(f"noise_is_weaker_{norm.name}", excess <= TOLERANCE, {"largest_excess": excess, "epsilon": epsilon})


def many_steps_beat_one(
    norm: Norm, attacks: Mapping[str, Attack], found: Mapping[str, Floats], epsilons: Sequence[float]
) -> Check:
    """Passes if no single-step attack beats the worst of the many-step attacks of one norm: the mark of masked gradients."""
    singles = {name: r for name, r in found.items() if isinstance(attacks[name], SingleStep)}
    many = [r for name, r in found.items() if isinstance(attacks[name], PGD)]
    worst = np.min(np.stack(many), axis=0)
    excesses = {name: _largest_excess(single, worst, epsilons) for name, single in singles.items()}
    name = max(excesses, key=lambda key: excesses[key][0])
    excess, epsilon = excesses[name]
    return Check(
        f"many_steps_beat_one_{norm.name}",
        excess <= TOLERANCE,
        {"attack": name, "largest_excess": excess, "epsilon": epsilon},
    )


def cross_entropy_not_masked(norm: Norm, by_cross_entropy: Floats, by_margin: Floats, epsilons: Sequence[float]) -> Check:
    """Passes if PGD on the margin loss finds no more than PGD on cross-entropy plus the tolerance.

    Cross-entropy depends on the scale of the logits and the margin does not: a difference says that large logits, not
    robustness, hold the cross-entropy attack off.
    """
    excess, epsilon = _largest_excess(by_margin, by_cross_entropy, epsilons)
    return Check(
        f"cross_entropy_not_masked_{norm.name}", excess <= TOLERANCE, {"largest_excess": excess, "epsilon": epsilon}
    )


def _largest_excess(weak: Floats, strong: Floats, epsilons: Sequence[float]) -> tuple[float, float]:
    """Returns by how much the error of the weak attack exceeds that of the strong one at most, and at which epsilon."""
    excesses = [float((weak <= epsilon).mean() - (strong <= epsilon).mean()) for epsilon in epsilons]
    worst = int(np.argmax(excesses))
    return max(excesses[worst], 0.0), float(epsilons[worst])
