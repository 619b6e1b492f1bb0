"""Adversarial attacks, one per file, and their names in YAML and in profiles (`ATTACKS`).

To add an attack, write a frozen dataclass with a `norm` and a `perturb` method, as in mi_fgsm.py, and add it to `ATTACKS`.
"""

from __future__ import annotations

import dataclasses

from torch import nn

from evaluators.attacks.apgd import APGD, TargetedAPGD
from evaluators.attacks.autoattack import AutoAttack
from evaluators.attacks.base import Attack, AttackEnsemble, MinimumNorm, SingleStep
from evaluators.attacks.bim import BIM
from evaluators.attacks.constraint_relaxation import ConstraintRelaxation
from evaluators.attacks.ddn import DDN
from evaluators.attacks.deepfool import DeepFool
from evaluators.attacks.eight_bit import EightBit
from evaluators.attacks.fab import FAB
from evaluators.attacks.fast_pgd import FastPGD
from evaluators.attacks.fgsm import FGSM
from evaluators.attacks.fmn import FMN
from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.attacks.hop_skip_jump import HopSkipJump
from evaluators.attacks.iterative_ll import IterativeLL
from evaluators.attacks.losses import (
    LOSSES,
    Loss,
    cross_entropy,
    dlr,
    margin,
    targeted,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from evaluators.attacks.mi_fgsm import MIFGSM
from evaluators.attacks.minimum_norm_ensemble import MinimumNormEnsemble
from evaluators.attacks.pgd import PGD
from evaluators.attacks.square import Square
from evaluators.attacks.step_ll import StepLL
from evaluators.attacks.strong import Strong
from evaluators.attacks.super_deepfool import SuperDeepFool
from evaluators.attacks.transfer import Transfer
from evaluators.attacks.trust_region import TrustRegion
from evaluators.attacks.uniform_noise import UniformNoise
from evaluators.norms import Norm

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": FGSM,
    "step_ll": StepLL,
    "pgd": PGD,
    "noise": UniformNoise,
    "apgd": APGD,
    "apgd_targeted": TargetedAPGD,
    "square": Square,
    "bim": BIM,
    "iterative_ll": IterativeLL,
    "mi_fgsm": MIFGSM,
    "deepfool": DeepFool,
    "fmn": FMN,
    "ddn": DDN,
    "super_deepfool": SuperDeepFool,
    "trust_region": TrustRegion,
    "hop_skip_jump": HopSkipJump,
    "fast_pgd": FastPGD,
    "fab": FAB,
    "constraint_relaxation": ConstraintRelaxation,
    "strong": Strong,
    "autoattack": AutoAttack,
    "nearest": MinimumNormEnsemble,
    "eight_bit": EightBit,
}


def describe(attack: Attack) -> dict[str, object]:
    """Returns an attack as plain data: its name and every setting, as values that YAML and JSON can store.

    Args:
        attack: Any attack. A class that is not in `ATTACKS` gets the name "module:class".

    Returns:
        A dict with the key "name" and one key per setting.

    Example:
        >>> from evaluators import FGSM, describe
        >>> describe(FGSM())
        {'name': 'fgsm', 'norm': 'linf', 'loss': 'cross_entropy'}
    """
    names = {kind: name for name, kind in ATTACKS.items()}
    kind = type(attack)
    settings: dict[str, object] = {"name": names.get(kind, f"{kind.__module__}:{kind.__qualname__}")}
    # A custom attack may be a plain class instead of a dataclass.
    fields = [f.name for f in dataclasses.fields(attack)] if dataclasses.is_dataclass(attack) else ["norm", *vars(attack)]
    return settings | {name: _plain(getattr(attack, name)) for name in fields}


def _plain(value: object) -> object:
    """Returns a setting of any type as plain data."""
    if isinstance(value, Norm):
        return value.name
    if isinstance(value, Attack):
        return describe(value)
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    names = {loss: name for name, loss in LOSSES.items()}
    return names.get(value, getattr(value, "__name__", repr(value))) if callable(value) else repr(value)


__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "LOSSES",
    "MIFGSM",
    "PGD",
    "Attack",
    "AttackEnsemble",
    "AutoAttack",
    "ConstraintRelaxation",
    "DeepFool",
    "EightBit",
    "FastPGD",
    "GradientOracle",
    "HopSkipJump",
    "IterativeLL",
    "Loss",
    "MinimumNorm",
    "MinimumNormEnsemble",
    "SingleStep",
    "Square",
    "StepLL",
    "Strong",
    "SuperDeepFool",
    "TargetedAPGD",
    "Transfer",
    "TrustRegion",
    "UniformNoise",
    "cross_entropy",
    "describe",
    "dlr",
    "margin",
    "targeted",
    "targeted_cross_entropy",
    "targeted_dlr",
    "targeted_margin",
]
