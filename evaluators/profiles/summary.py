"""The first line of whatever shows a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators.curves.error_curves import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evaluators.profiles.record import RobustnessProfile

# The epsilons at which robustness is usually claimed, by norm: for small grey images, and for all others.
GREY, OTHERS = {"linf": 0.3, "l2": 2.0}, {"linf": 8 / 255, "l2": 0.5}
GREY_DATASETS = ("digits", "mnist", "fashion_mnist")


def summary_line(profile: RobustnessProfile, epsilons: Mapping[str, float] | None = None) -> str:
    """Returns one line that says how far a profile's numbers can be trusted, and which they are.

    It begins with the failed checks where there are any. The adversarial error is the worst case over the attacks of each
    norm, at the largest measured epsilon that is not larger than the one claimed.

    Args:
        profile: Of one network on one split.
        epsilons: The epsilon claimed, by name of the norm; where one is missing, that of the usual claims: 8/255 in linf
            and 0.5 in l2, for digits, MNIST and Fashion-MNIST 0.3 and 2.
    """
    record, failed = profile.record, profile.failed_checks()
    claimed = {**(GREY if record["dataset"] in GREY_DATASETS else OTHERS), **(epsilons or {})}
    errors = []
    for norm in dict.fromkeys(entry["config"]["norm"] for entry in record["attacks"].values()):
        grid = profile.epsilons(norm)
        usual = [epsilon for epsilon in grid if epsilon <= claimed.get(norm, grid[-1]) * ROUNDING]
        epsilon = usual[-1] if usual else grid[0]
        errors.append(f"{profile.error_at(epsilon, norm):.1%} at {norm} {epsilon:.3g}")
    numbers = f"clean error {record['clean_error']:.1%}, adversarial error {', '.join(errors)}, on {record['n']:,} images"
    return f"FAILED CHECKS: {', '.join(failed)}. Measured all the same: {numbers}" if failed else numbers
