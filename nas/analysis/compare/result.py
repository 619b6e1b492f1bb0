"""What comparing several networks found: error curves, paired tests, transfer, disagreement, as data and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators import Attack, Comparison, NoPowerLaw, PowerLaw, RadiiComparison, describe, error_curve, median_radius
from evaluators.curves.error_curves import Floats
from evaluators.regions import Disagreement
from evaluators.transferability.matrix import TransferMatrix, asymmetry, transfer_rates
from evaluators.transferability.universal import universal_transfer
from nas.formatting import format_epsilon

if TYPE_CHECKING:
    from evaluators.transferability.matrix import Shares
    from evaluators.transferability.universal import UniversalTransfer

SCHEMA = "hardcell-comparison/1"


@final
@dataclass(frozen=True)
class PairTest:
    """The paired test of two networks, at one epsilon or over all of them.

    Attributes:
        first: Name of a network.
        second: Name of another.
        epsilon: In pixel units; None for the test over all epsilons.
        test: What was found, with the p-value of this test alone.
        corrected: The p-value corrected by Holm for all the tests of its kind: all pairs, and all epsilons if at one.
    """

    first: str
    second: str
    epsilon: float | None
    test: Comparison | RadiiComparison
    corrected: float

    @property
    def verdict(self) -> str:
        """What the corrected p-value says of the first network: 'more robust', 'less robust' or 'not distinguishable'."""
        return replace(self.test, p_value=self.corrected).verdict()


@final
@dataclass(frozen=True)
class NoTransfer:
    """How images carry over could not be measured.

    Attributes:
        reason: Why.
    """

    reason: str


@final
@dataclass(frozen=True)
class NetworkComparison:
    """Several networks on the same N images.

    Attributes:
        sources: What each network was opened from, by its name.
        data: Name of the images.
        data_hash: Hash of the images and labels.
        attacks: Those whose worst case the radii are, by name; of one norm.
        epsilons: Those of the tests at one epsilon and of transfer.
        grid: Those at which all radii were measured, the former among them.
        radii: One radius an image, (N,), by network: the worst case over the attacks.
        laws: The power law of each network's flip rate under the worst case, or why there is none.
        at_epsilon: The paired tests at each of the epsilons.
        over_all: The paired tests of the radii.
        transfers: The matrix of transfer by the attack that crafts the images, or why there is none.
        disagreement: How much the networks disagree in balls around the first images, of multiples of the first epsilon that
            was named, or chosen; in the attacks' norm.
        seed: Of all that was drawn.
    """

    sources: Mapping[str, str]
    data: str
    data_hash: str
    attacks: Mapping[str, Attack]
    epsilons: tuple[float, ...]
    grid: tuple[float, ...]
    radii: Mapping[str, Floats] = field(repr=False)
    laws: Mapping[str, PowerLaw | NoPowerLaw]
    at_epsilon: tuple[PairTest, ...]
    over_all: tuple[PairTest, ...]
    transfers: Mapping[str, TransferMatrix | NoTransfer] = field(repr=False)
    disagreement: Disagreement = field(repr=False)
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the networks, in the order in which they were given."""
        return tuple(self.sources)

    @property
    def norm(self) -> str:
        """Name of the attacks' norm."""
        return next(iter(self.attacks.values())).norm.name

    @property
    def n(self) -> int:
        """Number of images."""
        return len(next(iter(self.radii.values())))


def universal_sentence(reach: Sequence[UniversalTransfer]) -> str:
    """Returns in words whether adversarial images fool all networks, from the reach of every source at one epsilon."""
    epsilon, others, fooled = reach[0].epsilon, len(reach) - 1, sum(one.fooled for one in reach)
    if fooled == 0:
        return f"at {format_epsilon(epsilon)} no image fools its source"
    text = (
        f"at {format_epsilon(epsilon)}, {sum(len(one.to_all.images) for one in reach)} of {fooled} adversarial images fool "
    )
    if others == 1:
        return f"{text}the other network, too"
    expected = sum(one.fooled * one.to_all.chance for one in reach if one.fooled)
    whom = "both other networks" if others == 2 else f"all {others} other networks"
    return f"{text}{whom}, too; were the targets independent, {expected:.1f} would"


def as_record(comparison: NetworkComparison) -> dict[str, Any]:
    """Returns the content of compare.json: plain data, with null for infinite radii and for shares of nothing."""
    record = {
        "schema": SCHEMA,
        "networks": dict(comparison.sources),
        "data": comparison.data,
        "data_hash": comparison.data_hash,
        "n": comparison.n,
        "attacks": {name: describe(attack) for name, attack in comparison.attacks.items()},
        "norm": comparison.norm,
        "epsilons": comparison.epsilons,
        "grid": comparison.grid,
        "seed": comparison.seed,
        "curves": {name: _curve(radii, comparison.grid) for name, radii in comparison.radii.items()},
        "power_laws": {name: asdict(law) for name, law in comparison.laws.items()},
        "tests_at_epsilon": [_test(one) for one in comparison.at_epsilon],
        "tests_over_all": [_test(one) for one in comparison.over_all],
        "transfer": {name: _transfer(matrix) for name, matrix in comparison.transfers.items()},
        "disagreement": _disagreement(comparison.disagreement),
        "radii": {name: radii.tolist() for name, radii in comparison.radii.items()},
    }
    # Through JSON, so that nothing in it can fail to be saved.
    plain: dict[str, Any] = json.loads(json.dumps(_finite(record), allow_nan=False))
    return plain


def _curve(radii: Floats, grid: tuple[float, ...]) -> dict[str, Any]:
    curve = error_curve(radii, grid)
    return {
        "clean_error": float((radii == 0).mean()),
        "error": curve.error.tolist(),
        "error_interval": curve.error_interval.tolist(),
        "median_radius": median_radius(radii),
    }


def _test(one: PairTest) -> dict[str, Any]:
    place = {} if one.epsilon is None else {"epsilon": one.epsilon}
    judged = {"corrected_p_value": one.corrected, "verdict": one.verdict}
    return {"first": one.first, "second": one.second, **place, **asdict(one.test), **judged}


def _transfer(matrix: TransferMatrix | NoTransfer) -> dict[str, Any]:
    """Returns a matrix as plain data, or why there is none; arrays are by epsilon, source and target."""
    if isinstance(matrix, NoTransfer):
        return asdict(matrix)
    return {
        "names": matrix.names,
        "epsilons": matrix.epsilons,
        "given": matrix.given,
        "n": matrix.n,
        "images": matrix.index.tolist(),
        "among_all": _shares(transfer_rates(matrix)),
        "among_those_that_fool_the_source": _shares(transfer_rates(matrix, conditional=True)),
        "asymmetry": [asdict(one) for one in asymmetry(matrix)],
        "reach": [asdict(one) for one in universal_transfer(matrix)],
    }


def _shares(shares: Shares) -> dict[str, Any]:
    return {name: values.tolist() for name, values in vars(shares).items()}


def _disagreement(disagreement: Disagreement) -> dict[str, Any]:
    """Returns disagreement as plain data; the arrays of counts and entropies are by image and epsilon."""
    left_out = ("share", "interval")  # They follow from the counts.
    return {"images": len(disagreement.counts)} | {
        name: value for name, value in vars(disagreement).items() if name not in left_out
    }


def _finite(value: Any) -> Any:
    """Returns plain data with None in the place of what is not finite, and lists in that of arrays."""
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
