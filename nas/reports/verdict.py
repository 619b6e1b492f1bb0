"""Paired tests of the best finalist against the references on the test images, as sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators import Comparison, RadiiComparison, compare, compare_radii
from evaluators.curves.error_curves import in_grid
from nas.formatting import format_epsilon

if TYPE_CHECKING:
    from nas.runs.run import Run

_NAMES = {"random": "the median random candidate", "residual": "the plain residual network"}


@final
@dataclass(frozen=True)
class Verdict:
    """The best finalist against one reference.

    Attributes:
        finalist: Name of the finalist's bundle.
        reference: Name of the reference's bundle.
        role: Role of the reference: random or residual.
        comparison: The paired test, at the epsilon of the search.
        over_all: The paired test of the radii over all epsilons at which both were measured; None for fewer than two
            such epsilons.
        errors: Adversarial error of the finalist and of the reference.
        epsilon: The epsilon of the search.
        same: Whether both have the same architecture.
    """

    finalist: str
    reference: str
    role: str
    comparison: Comparison
    over_all: RadiiComparison | None
    errors: tuple[float, float]
    epsilon: float
    same: bool

    @property
    def beaten(self) -> bool:
        """Whether the finalist is more robust, beyond chance at the 5 % level."""
        return self.comparison.verdict() == "more robust"

    def __str__(self) -> str:
        """Returns the verdict as a sentence."""
        against = f"{_NAMES[self.role]} ({self.reference})"
        if self.same:
            return f"The search did not beat {against}. Its best finalist has the same architecture."
        verb = {"more robust": "beat", "less robust": "lost to", "not distinguishable": "did not beat"}
        mine, other = self.errors
        low, high = self.comparison.interval
        return (
            f"The search {verb[self.comparison.verdict()]} {against}. At epsilon {format_epsilon(self.epsilon)} the "
            f"adversarial error is {mine:.3f} against {other:.3f}, on {self.comparison.n} test images. The difference is "
            f"{self.comparison.difference:.3f} (95 % interval {low:.3f} to {high:.3f}; paired test, "
            f"p = {self.comparison.p_value:.2g}).{self._over_all()}"
        )

    def _over_all(self) -> str:
        """Returns sentences on the test over all epsilons, or an empty text if there is none."""
        test = self.over_all
        if test is None:
            return ""
        outcome = {
            "more robust": "the finalist is more robust",
            "less robust": "the finalist is less robust",
        }
        low, high = test.interval
        larger = round((test.n - test.ties + test.effect * test.n) / 2)
        return (
            f" Over all epsilons {outcome.get(test.verdict(), 'the two are not distinguishable')}. The finalist has the "
            f"larger radius on {larger / test.n:.3f} of the images, the reference on "
            f"{(test.n - test.ties - larger) / test.n:.3f}. The difference is {test.effect:.3f} (95 % interval {low:.3f} to "
            f"{high:.3f}; sign test, p = {test.p_value:.2g})."
        )


def verdicts(run: Run) -> list[Verdict]:
    """Returns the best finalist's comparison with each reference; empty without finalists or references."""
    finalists = [bundle for bundle in run.bundles if bundle.role == "finalist"]
    if not finalists:
        return []
    best, epsilon, norm = finalists[0], run.config.evaluation.epsilon, run.config.norm
    mine = best.profile.worst_case(norm)
    comparisons = []
    for reference in run.bundles:
        if reference.role not in _NAMES:
            continue
        other = reference.profile.worst_case(norm)
        measured = reference.profile.epsilons(norm)
        common = [epsilon for epsilon in best.profile.epsilons(norm) if epsilon > 0 and in_grid(epsilon, measured)]
        comparisons.append(
            Verdict(
                finalist=best.name,
                reference=reference.name,
                role=reference.role,
                comparison=compare(mine, other, epsilon),
                over_all=compare_radii(mine, other, common) if len(common) > 1 else None,
                errors=(best.profile.error_at(epsilon, norm), reference.profile.error_at(epsilon, norm)),
                epsilon=epsilon,
                same=best.stored.key == reference.stored.key,
            )
        )
    return comparisons
