"""Results of a comparison as data and as JSON: error curves, paired tests, transferability and disagreement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators import Attack, Comparison, NoPowerLaw, PowerLaw, RadiiComparison, describe, error_curve, median_radius
from evaluators.curves.error_curves import Floats
from evaluators.curves.power_law import law_record
from evaluators.regions import Disagreement
from evaluators.transferability.matrix import TransferMatrix
from evaluators.transferability.rates import asymmetry, transfer_rates
from evaluators.transferability.universal import universal_transfer
from nas.formatting import format_epsilon

if TYPE_CHECKING:
    from evaluators.transferability.rates import Shares
    from evaluators.transferability.universal import UniversalTransfer

SCHEMA = "hardcell-comparison/1"


@final
@dataclass(frozen=True)
class PairTest:
    """The paired test of two networks, at one epsilon or over all of them.

    Attributes:
        first: Name of the first network.
        second: Name of the second network.
        epsilon: Epsilon in pixel units; None for the test over all epsilons.
        test: Result of the test, with the uncorrected p-value.
        corrected: P-value with Holm's correction. Tests at one epsilon are corrected together for all pairs and all
            epsilons. Tests over all epsilons are corrected for all pairs.
    """

    first: str
    second: str
    epsilon: float | None
    test: Comparison | RadiiComparison
    corrected: float

    @property
    def verdict(self) -> str:
        """Verdict on the first network by the corrected p-value: 'more robust', 'less robust' or 'not distinguishable'."""
        return replace(self.test, p_value=self.corrected).verdict()


@final
@dataclass(frozen=True)
class NoTransfer:
    """Transfer that could not be measured.

    Attributes:
        reason: Reason in words.
    """

    reason: str


@final
@dataclass(frozen=True)
class NetworkComparison:
    """Comparison of several networks on the same N images.

    Attributes:
        sources: Path or full name of each network, by display name.
        data: Name of the data.
        data_hash: Hash of images and labels.
        attacks: Attacks by name, all in one norm; the radii are the worst case over them.
        epsilons: Epsilons of the paired tests and of transfer, in pixel units.
        grid: Epsilons at which all radii were measured, in pixel units, including `epsilons`.
        radii: Radius of each image, (N,), by network: worst case over the attacks, in pixel units.
        laws: Power law of each network's flip rate under the worst case, or the reason why there is none.
        at_epsilon: Paired tests at each epsilon.
        over_all: Paired tests of the radii, over all epsilons.
        transfers: Transfer matrix by attack, or the reason why there is none.
        disagreement: Disagreement of the networks in balls around the first images, in the attacks' norm. The radii of the
            balls are multiples of one epsilon: the first of the config, else the smallest of the bundles' searches, else
            the rounded median of all first-order radii.
        seed: Seed of all random numbers.
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
        """Names of the networks, in the order of the arguments."""
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
    """Returns a sentence on the number of adversarial images that fool all networks.

    Args:
        reach: For each source network, the images that fool all, some or none of the other networks, at one epsilon.
    """
    epsilon, others, fooled = reach[0].epsilon, len(reach) - 1, sum(one.fooled for one in reach)
    if fooled == 0:
        return f"at epsilon {format_epsilon(epsilon)}: no adversarial image fools its source network"
    reaching = sum(len(one.to_all.images) for one in reach)
    sources = "both source networks" if others == 1 else f"all {len(reach)} source networks"
    text = (
        f"at epsilon {format_epsilon(epsilon)}: over {sources}, {reaching} of {fooled} adversarial images that fool their "
        "source network fool "
    )
    if others == 1:
        return f"{text}the other network as well"
    expected = sum(one.fooled * one.to_all.chance for one in reach if one.fooled)
    whom = "both other networks" if others == 2 else f"all {others} other networks"
    return f"{text}{whom} as well; {expected:.1f} would be expected if these networks were fooled independently"


def as_record(comparison: NetworkComparison) -> dict[str, Any]:
    """Returns the content of compare.json as plain data; infinite radii and undefined shares are null."""
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
        "power_laws": {name: law_record(law) for name, law in comparison.laws.items()},
        "tests_at_epsilon": [_test(one) for one in comparison.at_epsilon],
        "tests_over_all": [_test(one) for one in comparison.over_all],
        "transfer": {name: _transfer(matrix) for name, matrix in comparison.transfers.items()},
        "disagreement": _disagreement(comparison.disagreement),
        "radii": {name: radii.tolist() for name, radii in comparison.radii.items()},
    }
    # The round trip through JSON shows that the record can be saved.
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
    """Returns a transfer matrix as plain data, or the reason why there is none; arrays are (epsilon, source, target)."""
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
    """Returns disagreement as plain data; arrays of counts and entropies are (image, epsilon)."""
    left_out = ("share", "interval")  # They follow from the counts.
    return {"images": len(disagreement.counts)} | {
        name: value for name, value in vars(disagreement).items() if name not in left_out
    }


def _finite(value: Any) -> Any:
    """Returns plain data with None for non-finite numbers and lists for arrays."""
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
