"""Attacks for networks without gradients: they use only the logits, or only the predicted class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators.attacks import ATTACKS, HopSkipJump, Square, UniformNoise
from evaluators.checks.radii import is_black_box
from evaluators.engine.scores_only import why_no_gradients
from evaluators.norms import NORMS
from nas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators.attacks import Attack
    from nas.analysis.network_source import NetworkSource

# Queries per image. Each query is one pass, so these attacks are slower than attacks by gradients, and still weaker.
QUERIES = 1000


def score_attacks(norm: str = "linf") -> dict[str, Attack]:
    """Returns the default attacks on networks without gradients, by name, in one norm."""
    ball = NORMS[norm]()
    return {"square": Square(norm=ball, queries=QUERIES), "hop_skip_jump": HopSkipJump(norm=ball, queries=QUERIES)}


def needs_gradients(attack: Attack) -> bool:
    """Returns whether an attack uses the gradients of the attacked network. A custom attack counts as one that does not."""
    return type(attack) in ATTACKS.values() and not (is_black_box(attack) or isinstance(attack, UniformNoise))


def suited_attacks(
    sources: Sequence[NetworkSource],
    attacks: Mapping[str, Attack],
    default: Mapping[str, Attack],
    transfer: Sequence[NetworkSource] = (),
) -> Mapping[str, Attack]:
    """Returns attacks that suit all networks: the given ones, or `score_attacks` in place of the default attacks.

    Args:
        sources: The attacked networks.
        attacks: Attacks by name.
        default: The default attacks by name, which are replaced if a network has no gradients.
        transfer: Networks on which PGD crafts images.

    Raises:
        ConfigError: an attack needs gradients of a network that has none.
    """
    reasons = {source.name: reason for source in sources if (reason := why_no_gradients(source.network)) is not None}
    if reasons and attacks == default:
        attacks = score_attacks(next(iter(default.values())).norm.name)
    guided = [name for name, attack in attacks.items() if needs_gradients(attack)]
    faults = [
        f"{name}: has no gradients, but these attacks need them: {', '.join(guided)}. {reason[:1].upper()}{reason[1:]}. Use "
        "--attack square or --attack hop_skip_jump; `hardcell profile` also has --transfer, from a network with gradients"
        for name, reason in reasons.items()
        if guided
    ]
    for source in transfer:
        if (reason := why_no_gradients(source.network)) is not None:
            faults.append(f"{source.name}: cannot be a source of transfer, because PGD needs its gradients: {reason}")
    if faults:
        raise ConfigError(faults)
    return attacks
