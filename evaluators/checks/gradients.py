"""Checks of the gradients by which white-box attacks find their way."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.attacks.losses import cross_entropy, margin, targeted_margin
from evaluators.attacks.pgd import PGD
from evaluators.checks.result import CheckResult, binomial_excess, excess
from evaluators.engine.prepared import predict
from evaluators.norms import Linf, broadcast_per_image
from evaluators.radius import measure

if TYPE_CHECKING:
    from evaluators.engine.prepared import PreparedNetwork
    from evaluators.logits.margin import Margins
    from evaluators.norms import Norm

# The step of the finite differences changes the margin by this share of the largest logit, as far as the gradient goes.
CHANGE = 1e-4
# The median margin, in logits, at which cross-entropy neither saturates nor pulls towards all classes alike.
MEDIAN_MARGIN = 6.0


def gradients_alive(margins: Margins) -> CheckResult:
    """Passes if hardly any right image has a margin without any gradient: at most 1 % of them, or not more beyond chance.

    Source: Carlini et al., arXiv:1902.06705, section 4.2: gradients of zero are no sign of robustness.
    """
    right = int(margins.right.sum())
    dead = binomial_excess(round(margins.zero_gradient_share * right), right, expected=0.01, tolerance=0.01)
    return CheckResult(
        "gradients_alive", not dead.is_finding(), {"share_without_gradient": dead.share, "right_images": right}
    )


def gradients_predict(prepared: PreparedNetwork) -> CheckResult:
    """Passes if gradients say what a small step does to the margin: they do not where something rounds.

    Rounding has no gradient, or is given one that it does not have ("straight through"). The rule: after a step along the
    gradient's sign that should change the difference to the nearest rival by 1e-4 of the largest logit, the change is off
    by more than half; where there is no gradient at all, a random step of 0.02 changes it nevertheless. Fails if that holds
    for more than 5 % of the images, beyond chance. In double precision where the network can be run in it.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.1, shattered gradients.
    """
    network, x = _precisely(prepared)
    logits = predict(network, x, prepared.batches)
    # The rival stays the same along the step, whichever class comes nearest meanwhile.
    rival = logits.scatter(1, prepared.y[:, None], -torch.inf).argmax(1)

    target = GradientOracle(
        network, x, prepared.y, Linf(), x.new_zeros(len(x)), keep="nothing", one_pass=prepared.batches.size
    )
    # Towards the rival, so with the other sign.
    gaps, gradient = (-value for value in target.value_and_gradient(x, targeted_margin, rival))
    wanted = CHANGE * logits.abs().amax(1)
    # Only pixels that have room, so that the step stays within their range.
    room = torch.where(gradient > 0, x, 1 - x) > 1e-3
    slope = (gradient.abs() * room).flatten(1).sum(1)
    step = (wanted / slope.clamp(min=1e-300)).clamp(max=1e-3)
    moved = x - broadcast_per_image(step, x) * gradient.sign() * room
    predicted = (gradient * (moved - x)).flatten(1).sum(1)
    flat = predicted.abs() < 0.01 * wanted
    coin = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    moved = torch.where(broadcast_per_image(flat, x), (x + 0.02 * (2 * coin - 1)).clamp(0, 1), moved)
    actual = -targeted_margin(predict(network, moved, prepared.batches), prepared.y, rival) - gaps
    off = torch.where(flat, actual.abs() > wanted, (actual - predicted).abs() > predicted.abs() / 2)
    verdict = binomial_excess(int(off.sum()), len(off), expected=0.05, tolerance=0.05)
    return CheckResult(
        "gradients_predict",
        not verdict.is_finding(),
        {
            "share_off": verdict.share,
            "share_unchanged_by_the_step": float((~flat & (actual == 0)).double().mean()),
            "share_without_gradient": float(flat.double().mean()),
            "median_step": float(step.median()),
        },
    )


def scale_does_not_matter(prepared: PreparedNetwork, norm: Norm, epsilon: float) -> CheckResult:
    """Passes if PGD on cross-entropy finds no more on rescaled logits, which change no decision, nor on the margin.

    Logits far apart starve cross-entropy of gradients; logits close together make it pull towards all wrong classes alike
    instead of the nearest. Either holds the attack off without any robustness. The rule: neither the same PGD-10, from the
    clean image, on logits scaled to a median margin of 6, nor one on the margin, which is blind to the scale, finds more at
    epsilon, beyond chance (McNemar's test) and a tolerance of 0.03.

    Source: Carlini and Wagner, "Defensive Distillation is Not Robust to Adversarial Examples", arXiv:1607.04311.
    """
    attack = PGD(norm=norm, random_start=False)
    by_margin = PGD(norm=norm, loss=margin, random_start=False)
    median = float(margin(prepared.logits, prepared.y).abs().median())
    factor = min(MEDIAN_MARGIN / median, 1e30) if median > 0 else 1.0
    rescaled = replace(prepared, network=_Scaled(prepared.network, factor), logits=prepared.logits * factor)
    size = prepared.x.new_ones(len(prepared.x))
    target = GradientOracle(
        prepared.network, prepared.x, prepared.y, norm, size, keep="nothing", one_pass=prepared.batches.size
    )
    starved = target.gradient(prepared.x, cross_entropy)
    as_given, scaled, blind = (
        (measure(variant, kind, [epsilon]) <= epsilon).numpy()
        for variant, kind in ((prepared, attack), (rescaled, attack), (prepared, by_margin))
    )
    excesses = [excess(other, as_given) for other in (scaled, blind)]
    return CheckResult(
        f"scale_does_not_matter_{norm.name}",
        not any(other.is_finding(len(excesses)) for other in excesses),
        {
            "median_margin": median,
            "error_as_given": float(as_given.mean()),
            "error_rescaled": float(scaled.mean()),
            "error_by_margin": float(blind.mean()),
            "share_without_cross_entropy_gradient": float((~starved.flatten(1).any(1)).double().mean()),
            "epsilon": epsilon,
            "p_value": min(other.p_value for other in excesses),
        },
    )


def _precisely(prepared: PreparedNetwork) -> tuple[nn.Module, Tensor]:
    """Returns the network and its images in double precision; as they are where the network cannot be run in it."""
    try:
        network, x = copy.deepcopy(prepared.network).double(), prepared.x.double()
        with torch.no_grad():
            network(x[:1])
    except Exception:  # Whatever stops it: a layer that casts to float32, a device without doubles.
        return prepared.network, prepared.x
    return network, x


@final
class _Scaled(nn.Module):
    """A network whose logits are multiplied by a number."""

    def __init__(self, body: nn.Module, factor: float) -> None:
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.body(x)  # type: ignore[no-any-return]
