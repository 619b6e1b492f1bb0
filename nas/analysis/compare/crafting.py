"""Attacks that craft the images of transfer in a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators import PGD, AttackEnsemble, MinimumNorm, Square
from nas.analysis.score_attacks import QUERIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evaluators import Attack


def crafting_attacks(attacks: Mapping[str, Attack], *, gradients: bool = True) -> dict[str, Attack]:
    """Returns the attacks that craft images for transfer: all but ensembles and minimum-norm attacks; PGD if none is left.

    Without gradients, it is Square instead of PGD.

    Ensembles and minimum-norm attacks return points near the decision boundary, which transfer poorly.

    Args:
        attacks: Attacks by name, all in one norm.
        gradients: Whether all networks have gradients.
    """
    crafting = {name: attack for name, attack in attacks.items() if not isinstance(attack, AttackEnsemble | MinimumNorm)}
    norm = next(iter(attacks.values())).norm
    return crafting or ({"pgd": PGD(norm=norm)} if gradients else {"square": Square(norm=norm, queries=QUERIES)})
