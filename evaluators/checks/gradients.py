"""Checks of the input gradients that white-box attacks use."""

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
from evaluators.radius.measure import measure

if TYPE_CHECKING:
    from evaluators.engine.prepared import PreparedNetwork
    from evaluators.logits.margin import Margins
    from evaluators.norms import Norm

# Length of the step in `gradients_predict`: the predicted change of the margin, as a share of the largest logit.
CHANGE = 1e-4
# At this median margin, in logits, cross-entropy does not saturate and its gradient favours the nearest class.
MEDIAN_MARGIN = 6.0


def gradients_alive(margins: Margins) -> CheckResult:
    """Checks that the margin has a gradient on nearly all correctly classified images.

    The check fails if the gradient is zero or not finite on more than 1 % of them, beyond chance (exact binomial test).

    Args:
        margins: Margins of N images.

    Source: Carlini et al., arXiv:1902.06705, section 4.2: gradients of zero are no sign of robustness.
    """
    right = int(margins.right.sum())
    dead = binomial_excess(round(margins.zero_gradient_share * right), right, expected=0.01, tolerance=0.01)
    return CheckResult(
        "gradients_alive", not dead.is_finding(), {"share_without_gradient": dead.share, "right_images": right}
    )


def gradients_predict(prepared: PreparedNetwork) -> CheckResult:
    """Checks that gradients predict how a small step changes the margin. They do not if the network rounds its values.

    Rounding has no gradient, or has an artificial "straight-through" gradient. The step goes against the sign of the
    gradient. By prediction, it lowers the logit difference to the nearest wrong class by 1e-4 of the largest logit. An image
    counts as off if the actual change differs from the predicted change by more than half of the predicted change. If the
    gradient is about zero, the image counts as off if a random step of 0.02 changes the difference by more than 1e-4 of the
    largest logit. The check fails if more than 5 % of the images are off, beyond chance (exact binomial test). It runs in
    double precision if the network supports this.

    Args:
        prepared: The network and N images.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.1, shattered gradients.
    """
    network, x = _precisely(prepared)
    logits = predict(network, x, prepared.batches)
    # The wrong class is fixed before the step, even if another class becomes nearer.
    rival = logits.scatter(1, prepared.y[:, None], -torch.inf).argmax(1)

    target = GradientOracle(
        network, x, prepared.y, Linf(), x.new_zeros(len(x)), keep="nothing", one_pass=prepared.batches.size
    )
    # The targeted margin has the opposite sign of the difference to the wrong class.
    gaps, gradient = (-value for value in target.value_and_gradient(x, targeted_margin, rival))
    wanted = CHANGE * logits.abs().amax(1)
    # Pixels at the bound towards which they would move stay where they are, so that the step stays within [0, 1].
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
    """Checks that PGD on cross-entropy is not weakened by the scale of the logits, which changes no decision.

    If logits are far apart, the gradient of cross-entropy vanishes. If they are close together, it points towards all wrong
    classes equally instead of the nearest. Both weaken the attack on a network that is not robust. The check runs PGD-10
    from the clean image three times: on cross-entropy, on cross-entropy of logits rescaled to a median margin of 6, and on
    the margin, which does not depend on the scale. The check fails if the error of the second or third run exceeds that of
    the first by more than 0.03, beyond chance (McNemar's test).

    Args:
        prepared: The network and N images.
        norm: Shape of the ball.
        epsilon: Epsilon of the attacks, in pixel units.

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
    gradient = target.gradient(prepared.x, cross_entropy)
    as_given, scaled, scale_free = (
        (measure(variant, kind, [epsilon]) <= epsilon).numpy()
        for variant, kind in ((prepared, attack), (rescaled, attack), (prepared, by_margin))
    )
    excesses = [excess(other, as_given) for other in (scaled, scale_free)]
    return CheckResult(
        f"scale_does_not_matter_{norm.name}",
        not any(other.is_finding(len(excesses)) for other in excesses),
        {
            "median_margin": median,
            "error_as_given": float(as_given.mean()),
            "error_rescaled": float(scaled.mean()),
            "error_by_margin": float(scale_free.mean()),
            "share_without_cross_entropy_gradient": float((~gradient.flatten(1).any(1)).double().mean()),
            "epsilon": epsilon,
            "p_value": min(other.p_value for other in excesses),
        },
    )


def _precisely(prepared: PreparedNetwork) -> tuple[nn.Module, Tensor]:
    """Returns the network and its images in double precision, or unchanged if the network does not run in it."""
    try:
        network, x = copy.deepcopy(prepared.network).double(), prepared.x.double()
        with torch.no_grad():
            network(x[:1])
    except Exception:  # For example a layer that casts to float32, or a device without float64.
        return prepared.network, prepared.x
    return network, x


@final
class _Scaled(nn.Module):
    """A network with logits multiplied by a constant factor."""

    def __init__(self, body: nn.Module, factor: float) -> None:
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.body(x)  # type: ignore[no-any-return]
