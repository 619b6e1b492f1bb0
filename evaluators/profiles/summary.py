"""The summary line of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators.curves.error_curves import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evaluators.profiles.record import RobustnessProfile

# Usual epsilons of robustness claims by norm, in pixel units: for small grey images, and for all other images.
GREY, OTHERS = {"linf": 0.3, "l2": 2.0, "l1": 10.0}, {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}
GREY_DATASETS = ("digits", "mnist", "fashion_mnist")


def summary_line(profile: RobustnessProfile, epsilons: Mapping[str, float] | None = None) -> str:
    """Returns one line with the failed checks, if any, the clean error and the adversarial error of each norm.

    The adversarial error is the worst case over the attacks of the norm, at the largest measured epsilon that is not above
    the claimed epsilon. If all measured epsilons are above the claimed one, it is the error at the smallest.

    Args:
        profile: Profile of one network on one split.
        epsilons: Claimed epsilon, in pixel units, by name of the norm. The default is 8/255 for linf, 0.5 for l2 and 12 for
            l1; for digits, MNIST and Fashion-MNIST it is 0.3 for linf, 2 for l2 and 10 for l1.
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
    return f"FAILED CHECKS: {', '.join(failed)}. Measurements: {numbers}" if failed else numbers
