"""Settings of the evaluation of a trial: attacks, their norms and epsilons.

The docstring documents the YAML keys, as in schema.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

from evaluators.attacks import PGD, Attack, margin
from nas.validation import bounded, check_bounds, format_number, raise_if_invalid

# Maps a network, the images (a Dataset) and the Config to numbers by name.
Recorder = Callable[..., Mapping[str, float]]


@final
@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a trial is scored, on the validation split.

    Attributes:
        epsilon: Radius of the ball for adversarial_error, in pixel units (pixels in [0, 1]; fractions such as 8/255 work).
        epsilons: Further epsilons, for metrics of the error curve; null for none.
        other_norms: Epsilon of each further norm of the attacks, such as {l2: 0.5, l1: 12}; null for attacks of one norm. An
            image then counts for adversarial_error if an attack of any norm succeeds within the epsilon of its norm. All
            other metrics, the training and the reports use epsilon and the norm that is not in this list.
        attacks: Attacks by name. An image counts as an error if any attack succeeds.
        images: Maximum number of validation images.
        record: path/to/file.py:NAME of a custom function. It gets each trained network, the images and the whole config.
            The numbers that it returns, by name, are stored with the trial. Null for none.

    Raises:
        ValueError: a value is out of range, no attack is given, or the norms of the attacks do not match other_norms.
    """

    epsilon: float = bounded(0.12, 1e-6)
    epsilons: tuple[float, ...] | None = None
    other_norms: Mapping[str, float] | None = None
    attacks: Mapping[str, Attack] = field(default_factory=lambda: {"pgd": PGD(), "pgd_margin": PGD(loss=margin)})
    images: int = bounded(1000, 1)
    record: Recorder | None = None

    def grid(self) -> list[float]:
        """Returns all epsilons of a trial in increasing order, in pixel units."""
        return sorted({*(self.epsilons or ()), self.epsilon})

    @property
    def norm(self) -> str:
        """Name of the norm of `epsilon`: that of the first attack whose norm is not in `other_norms`."""
        return next(attack.norm.name for attack in self.attacks.values() if attack.norm.name not in (self.other_norms or {}))

    def attacks_in(self, norm: str) -> dict[str, Attack]:
        """Returns the attacks of one norm, by name."""
        return {name: attack for name, attack in self.attacks.items() if attack.norm.name == norm}

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        if self.epsilons is not None and (not self.epsilons or not all(0 < e <= 1e6 for e in self.epsilons)):
            faults.append(
                ("epsilons", f"must hold epsilons above 0 in pixel units (8/255, not 8), got {list(self.epsilons)}")
            )
        if not self.attacks:
            faults.append(("attacks", "must name at least one attack"))
        elif unions := self._check_norms():
            faults += unions
        elif max(self.grid()) > 1 and self.norm == "linf":
            key, largest = "epsilon" if self.epsilon > 1 else "epsilons", format_number(max(self.grid()))
            faults.append(
                (key, f"must be at most 1, got {largest}; epsilons are in pixel units, so write 8/255 rather than 8")
            )
        raise_if_invalid(faults)

    def _check_norms(self) -> list[tuple[str, str]]:
        """Returns the faults of the norms of the attacks and of their epsilons, as pairs of key and message."""
        others, norms = self.other_norms or {}, list(dict.fromkeys(attack.norm.name for attack in self.attacks.values()))
        faults = []
        for norm, epsilon in others.items():
            if norm not in norms:
                faults.append((f"other_norms.{norm}", f"has no attack of that norm; the attacks use {', '.join(norms)}"))
            if not 0 < epsilon <= (1 if norm == "linf" else 1e6):
                message = f"must be an epsilon above 0 in pixel units (8/255, not 8), got {epsilon:g}"
                faults.append((f"other_norms.{norm}", message))
        left = [norm for norm in norms if norm not in others]
        if not left:
            faults.append(("other_norms", "must leave out one norm of the attacks, that of epsilon"))
        elif len(left) > 1:
            further = ", ".join(f"{norm}: EPSILON" for norm in left[1:])
            message = f"must share one norm, because epsilon is measured in it; or set other_norms: {{{further}}}"
            faults.append(("attacks", message))
        return faults
