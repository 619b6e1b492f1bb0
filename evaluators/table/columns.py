"""What the names of a table's columns say: the attack and its epsilon."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

# What columns may be called, before the epsilon; digits after a name are its steps: pgd20_8 is PGD-20 at 8.
KINDS: dict[str, tuple[str, ...]] = {
    "single step": ("fgsm", "fgm", "ffgsm", "rfgsm", "step_ll"),
    "many steps": (
        *("pgd", "bim", "ifgsm", "i_fgsm", "mifgsm", "mi_fgsm", "mim", "apgd", "auto_pgd", "autoattack", "auto_attack"),
        *("aa", "cw", "c_w", "deepfool", "fab", "fmn", "ddn"),
    ),
    "black box": ("square", "hop_skip_jump", "hopskipjump", "boundary", "nes", "spsa", "simba", "bandits", "transfer"),
    "noise": ("noise", "uniform_noise", "gaussian_noise"),
    "targeted": ("iterative_ll",),
}
CLEAN = ("clean", "natural", "standard", "benign", "test")
OTHER_SPLIT = ("val", "valid", "validation", "train", "training")
FILLERS = ("acc", "accuracy", "adv", "adversarial", "robust", "eps", "epsilon")


@final
@dataclass(frozen=True)
class Column:
    """What the name of a column says.

    Attributes:
        name: As in the table.
        attack: The attack, with its steps; "clean", or the name of another split.
        kind: A key of `KINDS`, "clean" or "other split".
        norm: As the name has it, "linf" where it has none.
        epsilon: The number at the name's end, x/255 worked out; None where there is none.
        bare: It was written without a unit.
    """

    name: str
    attack: str
    kind: str
    norm: str = "linf"
    epsilon: float | None = None
    bare: bool = False


def in_pixels(columns: Sequence[Column]) -> list[Column]:
    """Returns a table's columns with the L-infinity epsilons in pixel units, so that 8 and 8/255 are one.

    No L-infinity epsilon is above 1 in pixel units: where one of those without a unit is, all of them are in 1/255.
    """
    bytes_ = any(column.bare and column.norm == "linf" and (column.epsilon or 0) > 1 for column in columns)
    return [
        replace(column, epsilon=column.epsilon / 255)
        if bytes_ and column.bare and column.norm == "linf" and column.epsilon is not None
        else column
        for column in columns
    ]


def parse_column(name: str) -> Column | None:
    """Returns what a column's name says, such as `pgd_1.0`, `fgsm_l2_0.5`, `apgd-ce 8/255`, `clean`, `val_acc`, or None.

    A whole number after a hyphen is the number of steps of an attack of many: PGD-20 is as PGD20.
    """
    words = [word for word in re.split(r"[\s_@:&=()%-]+", name.strip().lower()) if word and word not in FILLERS]
    norms = [word for word in words if word in ("linf", "l2", "l1", "l0")]
    words = [word for word in words if word not in norms]
    if not words:
        # Nothing but "acc"; a bare norm is no accuracy.
        return None if norms or not name.strip() else Column(name, "clean", "clean")
    if words[0] in CLEAN and len(words) == 1:
        return Column(name, "clean", "clean")
    if words[0] in OTHER_SPLIT and len(words) == 1:
        return Column(name, words[0], "other split")
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(/255)?", words[-1])
    epsilon, bare = None, False
    steps = re.search(r"-\d+$", name.strip()) is not None and _kind_of(words[:-1]) == "many steps"
    if number and len(words) > 1 and not steps:
        epsilon, bare = float(number[1]) / (255 if number[2] else 1), not number[2]
        words = words[:-1]
    kind = _kind_of(words)
    if kind is None:
        return None
    return Column(name, "_".join(words), kind, norms[0] if norms else "linf", epsilon, bare)


def _kind_of(words: Sequence[str]) -> str | None:
    """Returns the kind of the attack that some words name, or None."""
    # The longest beginning that is known counts: mi_fgsm is no mi, and apgd_ce is an apgd.
    for count in range(len(words), 0, -1):
        attack = re.sub(r"\d+$", "", "_".join(words[:count]))
        kind = next((kind for kind, known in KINDS.items() if attack in known), None)
        if kind is not None:
            return kind
    return None


def understood() -> str:
    """Returns which names of columns are understood, for messages."""
    attacks = ", ".join(name for known in KINDS.values() for name in known)
    return f"understood are clean, test_acc, val_acc, and ATTACK_EPSILON, such as pgd_1.0 or fgsm_8/255, of {attacks}"
