"""Parsing of column names into an attack, its norm and its epsilon."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

# Names of attacks in column names, by kind. Digits after a name are the number of steps: pgd20_8 is PGD-20 at epsilon 8.
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
    """A parsed column name.

    Attributes:
        name: Name of the column in the table.
        attack: Name of the attack with its steps, "clean", or the name of another split.
        kind: A key of `KINDS`, "clean" or "other split".
        norm: Norm in the name; "linf" if the name has none.
        epsilon: Number at the end of the name, with x/255 evaluated; None if there is none.
        bare: Whether the epsilon has no unit "/255".
    """

    name: str
    attack: str
    kind: str
    norm: str = "linf"
    epsilon: float | None = None
    bare: bool = False


def in_pixels(columns: Sequence[Column]) -> list[Column]:
    """Returns the columns of a table with L-infinity epsilons for pixels in [0, 1], so that 8 and 8/255 are equal.

    With such pixels, no L-infinity epsilon is above 1. If an epsilon without a unit is above 1, all epsilons without a unit
    are read as multiples of 1/255.
    """
    bytes_ = any(column.bare and column.norm == "linf" and (column.epsilon or 0) > 1 for column in columns)
    return [
        replace(column, epsilon=column.epsilon / 255)
        if bytes_ and column.bare and column.norm == "linf" and column.epsilon is not None
        else column
        for column in columns
    ]


def parse_column(name: str) -> Column | None:
    """Parses a column name such as `pgd_1.0`, `fgsm_l2_0.5`, `apgd-ce 8/255`, `clean` or `val_acc`.

    An integer after a hyphen is the number of steps of a many-step attack, as in PGD-20, and not an epsilon.

    Args:
        name: Name of a column.

    Returns:
        The parsed column, or None if the name is not that of an accuracy.
    """
    words = [word for word in re.split(r"[\s_@:&=()%-]+", name.strip().lower()) if word and word not in FILLERS]
    norms = [word for word in words if word in ("linf", "l2", "l1", "l0")]
    words = [word for word in words if word not in norms]
    if not words:
        # A name such as "acc" is the clean accuracy; a name such as "l2" is no accuracy.
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
    """Returns the kind of the attack named by words, or None."""
    # The longest known prefix counts: mi_fgsm is in the list, and apgd_ce is an apgd.
    for count in range(len(words), 0, -1):
        attack = re.sub(r"\d+$", "", "_".join(words[:count]))
        kind = next((kind for kind, known in KINDS.items() if attack in known), None)
        if kind is not None:
            return kind
    return None


def understood() -> str:
    """Returns the accepted column names, for error messages."""
    attacks = ", ".join(name for known in KINDS.values() for name in known)
    return (
        f"accepted names are clean, test_acc, val_acc, and ATTACK_EPSILON such as pgd_1.0 or fgsm_8/255, with ATTACK one of "
        f"{attacks}"
    )
