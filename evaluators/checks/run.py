"""Runs all applicable checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.attacks.base import AttackEnsemble
from evaluators.attacks.hop_skip_jump import HopSkipJump
from evaluators.attacks.losses import cross_entropy, margin
from evaluators.attacks.pgd import PGD
from evaluators.attacks.square import Square
from evaluators.attacks.uniform_noise import UniformNoise
from evaluators.checks.attacks import (
    QUERIES,
    enough_steps,
    noise_is_weaker,
    reaches_chance,
    square_is_weaker,
    white_box_is_weaker,
)
from evaluators.checks.gradients import gradients_alive, gradients_predict, scale_does_not_matter
from evaluators.checks.outputs import (
    batch_independent,
    deterministic,
    logits_not_probabilities,
    normalised_inside,
    tells_classes_apart,
)
from evaluators.checks.planted_examples import finds_planted, is_affordable
from evaluators.checks.radii import (
    black_box_is_weaker,
    cross_entropy_not_masked,
    enough_images,
    is_black_box,
    is_many_step,
    is_single_step,
    many_steps_beat_one,
)
from evaluators.checks.result import most_informative_epsilon
from evaluators.curves.error_curves import worst_case
from evaluators.engine.input_checks import check_images, check_labels
from evaluators.engine.prepared import prepare
from evaluators.engine.scores_only import why_no_gradients
from evaluators.logits.margin import margins
from evaluators.norms import Linf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from evaluators.attacks.base import Attack
    from evaluators.checks.result import CheckResult
    from evaluators.curves.error_curves import Floats
    from evaluators.engine.prepared import PreparedNetwork
    from evaluators.logits.margin import Margins
    from evaluators.norms import Norm

SUBSET = 256


def subset(n: int) -> Tensor:
    """Returns the indices of at most 256 of n images, (min(n, 256),) int64.

    The indices are evenly spaced, because images may be sorted by class.
    """
    return torch.linspace(0, n - 1, min(n, SUBSET)).round().long()


def check_network(
    network: nn.Module, x: Tensor, y: Tensor, known_margins: Margins | None = None, *, batch_size: int | None = None
) -> list[CheckResult]:
    """Returns the outcomes of the checks that need no measured radii. They are cheap enough for the trials of a search.

    Checks of gradients are left out if the network has none (`ScoresOnly`).

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K); unchanged by the checks.
        x: Clean images (N, ...) with pixels in [0, 1]; at most 256 of them are used.
        y: True labels, (N,) int64.
        known_margins: Margins of the network, if already measured; None to measure them.
        batch_size: Images in one pass; None to choose it from the memory that one image needs.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x or y is out of range, or the network's output is not (N, K) finite logits.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import check_network
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 1])
        >>> checks = check_network(network, x, y)
        >>> [check.name for check in checks if not check.passed]
        []
    """
    check_images(x)
    check_labels(y, len(x))
    chosen = subset(len(x)).to(x.device)
    x, y = x[chosen], y[chosen]
    with prepare(network, x, y, batch_size) as prepared:
        sensible = tells_classes_apart(prepared)
        differentiable = why_no_gradients(network) is None
        of_gradients = [gradients_predict(prepared), reaches_chance(prepared)] if differentiable else []
        batches = prepared.batches
    if differentiable:
        of_gradients.insert(0, gradients_alive(known_margins or margins(network, x, y, [Linf()], batch_size)))
    return [
        sensible,
        deterministic(network, x, batches),
        logits_not_probabilities(network, x, batches),
        batch_independent(network, x, batches),
        normalised_inside(network, x, y, batches),
        *of_gradients,
    ]


def check_attacks(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    measured: Mapping[str, Floats],
    grids: Mapping[str, Sequence[float]],
    *,
    batch_size: int | None = None,
) -> list[CheckResult]:
    """Returns the outcomes of the checks of measured radii. A check runs if the attacks that it compares were measured.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K); unchanged by the checks.
        x: Clean images (N, ...) with pixels in [0, 1]. Checks that run an attack use at most 256 of them.
        y: True labels, (N,) int64.
        attacks: Attacks by name.
        measured: Radii of the images by name of the attack, (N,) each.
        grids: Epsilons at which the radii were measured, in pixel units, by name of the norm.
        batch_size: Images in one pass; None to choose it from the memory that one image needs.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x or y is out of range, the network's output is not (N, K) finite logits, or an attack does not
            have N radii.
    """
    check_images(x)
    check_labels(y, len(x))
    for name in attacks:
        if len(measured[name]) != len(x):
            raise ValueError(f"measured must hold {len(x)} radii of {name}, one per image, got {len(measured[name])}")
    chosen = subset(len(x))
    outcomes: list[CheckResult] = []
    widths: list[CheckResult] = []
    with prepare(network, x[chosen.to(x.device)], y[chosen.to(x.device)], batch_size) as prepared:
        for name, norm in {attack.norm.name: attack.norm for attack in attacks.values()}.items():
            own = {key: attack for key, attack in attacks.items() if attack.norm == norm}
            radii = {key: measured[key] for key in own}
            epsilons = [epsilon for epsilon in grids[name] if epsilon > 0]
            outcomes += _of_radii(norm, own, radii, epsilons)
            on_chosen = {key: r[chosen.numpy()] for key, r in radii.items()}
            outcomes += _of_attacking(prepared, norm, own, on_chosen, epsilons)
            if is_affordable(own, len(x), epsilons):
                outcomes += _of_planting(network, prepared, own, on_chosen, epsilons)
            widths.append(enough_images(worst_case(list(radii.values())), grids[name]))
    # Of several norms, only the one with the widest interval is reported.
    return [*outcomes, *sorted(widths, key=lambda check: check.evidence["half_width"])[-1:]]


def _of_radii(
    norm: Norm, attacks: Mapping[str, Attack], radii: Mapping[str, Floats], epsilons: Sequence[float]
) -> list[CheckResult]:
    """Returns the outcomes of the checks of one norm that need only radii."""
    outcomes = []
    single, many, black = (
        [key for key, attack in attacks.items() if belongs(attack)]
        for belongs in (is_single_step, is_many_step, is_black_box)
    )
    if single and many:
        outcomes.append(many_steps_beat_one(norm, attacks, radii, epsilons))
    by_loss = {
        loss: [radii[key] for key, attack in attacks.items() if isinstance(attack, PGD) and attack.loss is loss]
        for loss in (cross_entropy, margin)
    }
    if all(by_loss.values()):
        by_cross_entropy, by_margin = (worst_case(radii) for radii in by_loss.values())
        outcomes.append(cross_entropy_not_masked(norm, by_cross_entropy, by_margin, epsilons))
    if black and (single or many):
        white, boxed = (worst_case([radii[key] for key in keys]) for keys in (single + many, black))
        outcomes.append(black_box_is_weaker(norm, white, boxed, epsilons))
    return outcomes


def _of_attacking(
    prepared: PreparedNetwork,
    norm: Norm,
    attacks: Mapping[str, Attack],
    radii: Mapping[str, Floats],
    epsilons: Sequence[float],
) -> list[CheckResult]:
    """Returns the outcomes of the checks of one norm that run another attack; `radii` are those of the prepared images."""
    guided = {key: attack for key, attack in attacks.items() if not isinstance(attack, UniformNoise)}
    # Noise is a control and not an attack, unless nothing else was measured.
    worst = worst_case([radii[key] for key in guided or attacks])
    epsilon = most_informative_epsilon(worst, epsilons)
    outcomes = [noise_is_weaker(prepared, norm, worst, epsilons)] if guided else []
    differentiable = why_no_gradients(prepared.network) is None
    if differentiable:
        outcomes.append(scale_does_not_matter(prepared, norm, epsilon))
    if differentiable and all(isinstance(attack, UniformNoise) or is_black_box(attack) for attack in attacks.values()):
        outcomes.append(white_box_is_weaker(prepared, norm, worst, epsilon))
    # Only the strongest attack is lengthened, because a claim rests on the worst case.
    stepping = [key for key, attack in guided.items() if hasattr(attack, "steps") and not isinstance(attack, AttackEnsemble)]
    if stepping:
        key = max(stepping, key=lambda key: (radii[key] <= epsilon).sum())
        outcomes.append(enough_steps(prepared, key, attacks[key], worst, epsilon))
    if prepared.x.ndim == 4 and not any(_enough_queries(attack) for attack in guided.values()):
        outcomes.append(square_is_weaker(prepared, norm, worst, epsilon))
    return outcomes


def _of_planting(
    network: nn.Module,
    prepared: PreparedNetwork,
    attacks: Mapping[str, Attack],
    radii: Mapping[str, Floats],
    epsilons: Sequence[float],
) -> list[CheckResult]:
    """Returns the outcome of the active test of the strongest attack of many gradient steps, if it can be run."""
    many = [key for key, attack in attacks.items() if is_many_step(attack)]
    if not many:
        return []
    epsilon = most_informative_epsilon(worst_case([radii[key] for key in many]), epsilons)
    key = max(many, key=lambda key: (radii[key] <= epsilon).sum())
    batch_size = prepared.batches.size
    # In large balls, which may overlap, the test cannot be built. A weak attack has such an epsilon, so smaller ones follow.
    for smaller in sorted((e for e in epsilons if e <= epsilon), reverse=True):
        outcome = finds_planted(network, prepared.x, prepared.y, key, attacks[key], smaller, batch_size=batch_size)
        if outcome is not None:
            return [outcome]
    return []


def _enough_queries(attack: Attack) -> bool:
    """Returns whether a black-box attack uses at least as many queries as `square_is_weaker`."""
    return isinstance(attack, Square | HopSkipJump) and attack.queries >= QUERIES
