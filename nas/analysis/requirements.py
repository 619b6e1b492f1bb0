"""Requirements on the measured numbers of a network, such as `adversarial_error@8/255 <= 0.5`.

A number measured on a sample of images has an interval. A requirement is met only if the whole 95 % interval meets it, so a
network does not pass because of the choice of the images. Attacks show a lower bound of the adversarial error; a requirement
cannot exclude that a stronger attack finds more.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators import NORMS, error_curve
from evaluators.curves.error_curves import in_grid
from evaluators.engine.scores_only import why_no_gradients
from nas.errors import ConfigError, RunError
from nas.formatting import format_epsilon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import nn

    from evaluators import RobustnessProfile
    from evaluators.curves.error_curves import Floats
    from nas.analysis.compare.result import NetworkComparison

ERROR = "adversarial_error"
# Metrics that have no interval.
COUNTS = ("failed_checks", "parameters", "macs")
METRICS = (ERROR, "clean_error", *COUNTS)
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*([^\s<>=@:]+)\s*(?:@\s*([^\s<>=:]+)\s*)?(?::\s*([^\s<>=:]+)\s*)?(<=|>=|==|<|>)\s*([^\s<>=]+)\s*")
_EXAMPLES = "write one such as 'adversarial_error@8/255 <= 0.5' or 'failed_checks == 0'"


@final
@dataclass(frozen=True)
class Requirement:
    """A bound on a metric of a network.

    Attributes:
        text: The requirement as the user wrote it, without superfluous spaces.
        metric: clean_error, adversarial_error, failed_checks, parameters or macs.
        epsilon: Epsilon of adversarial_error, in pixel units; None for other metrics.
        norm: Norm of adversarial_error; None for linf, or for the only norm that was measured.
        comparison: <=, >=, ==, < or >.
        limit: The bound.
    """

    text: str
    metric: str
    epsilon: float | None
    norm: str | None
    comparison: str
    limit: float


@final
@dataclass(frozen=True)
class RequirementResult:
    """Whether a network meets a requirement.

    Attributes:
        network: Name of the network.
        requirement: The requirement.
        value: The measured number.
        interval: Its 95 % interval; None for a count.
        met: Whether the requirement is met.
    """

    network: str
    requirement: Requirement
    value: float
    interval: tuple[float, float] | None
    met: bool

    @property
    def measured(self) -> str:
        """The number and its interval as text. Numbers near the bound have more digits, so that they differ from it."""
        if self.interval is None:
            return f"{self.value:,.0f}"
        numbers, limit, digits = (self.value, *self.interval), self.requirement.limit, 3
        while digits < 9 and any(number != limit and round(number, digits) == limit for number in numbers):
            digits += 1
        value, low, high = (f"{number:.{digits}f}" for number in numbers)
        return f"{value} [{low}, {high}]"


def parse_requirements(texts: Iterable[str], *, point: bool = False, counts: bool = True) -> tuple[Requirement, ...]:
    """Returns requirements from texts of the form `METRIC[@EPSILON][:NORM] COMPARISON NUMBER`.

    Args:
        texts: The texts.
        point: Whether measured numbers instead of their intervals will be compared, so that errors may be required to equal
            a number.
        counts: Whether failed_checks, parameters and macs will be measured.

    Raises:
        ConfigError: a text is not a requirement; the message lists every fault.
    """
    parsed: list[Requirement] = []
    faults = []
    for text in texts:
        try:
            requirement = _parse(text, point=point)
            if requirement.metric in COUNTS and not counts:
                raise ValueError(f"{requirement.metric} is not measured here; `hardcell profile` measures it")
            parsed.append(requirement)
        except ValueError as error:
            faults.append(f"--require {text!r}: {error}")
    if faults:
        raise ConfigError(faults)
    return tuple(parsed)


def _parse(text: str, *, point: bool) -> Requirement:
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"is not a requirement with {', '.join(COMPARISONS)}; {_EXAMPLES}")
    metric, epsilon, norm, comparison, limit = match.groups()
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, 1)
        raise ValueError(f"there is no metric {metric!r}; {f'did you mean {near[0]!r}?' if near else ', '.join(METRICS)}")
    if metric == ERROR and epsilon is None:
        raise ValueError("adversarial_error needs an epsilon, such as adversarial_error@8/255")
    if metric != ERROR and (epsilon is not None or norm is not None):
        raise ValueError(f"{metric} has no epsilon and no norm")
    norm = norm and norm.lower()
    if norm is not None and norm not in NORMS:
        raise ValueError(f"the norm must be {' or '.join(NORMS)}, got {norm!r}")
    size = None if epsilon is None else _number(epsilon, "the epsilon")
    if size is not None and size <= 0:
        raise ValueError(f"the epsilon must be above 0, got {epsilon}; use clean_error for epsilon 0")
    if size is not None and size > 1 and norm in (None, "linf"):
        raise ValueError(f"the epsilon must be at most 1, got {epsilon}; pixels are in [0, 1], so write 8/255 rather than 8")
    bound = _number(limit, "the bound")
    if metric in COUNTS:
        if bound < 0 or bound != int(bound):
            raise ValueError(f"{metric} is a count, so the bound must be a whole number, at least 0; got {limit}")
    elif not 0 <= bound <= 1:
        raise ValueError(f"an error is between 0 and 1, so the bound must be, too; got {limit}")
    elif (comparison, bound) in (("<", 0), (">", 1)):
        raise ValueError(f"an error is between 0 and 1, so it is never {comparison} {limit}")
    if comparison == "==" and metric not in COUNTS and not point:
        raise ValueError("an error has an interval, which never equals a number; write <= or >=, or give --point")
    return Requirement(" ".join(text.split()), metric, size, norm, comparison, bound)


def _number(text: str, name: str) -> float:
    """Returns a number or a fraction such as 8/255."""
    value, slash, divisor = text.partition("/")
    try:
        number = float(value) / (float(divisor) if slash else 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number or a fraction such as 8/255, got {text}")
    return number


def required_epsilons(requirements: Iterable[Requirement], norms: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Returns the epsilons that requirements need, in pixel units, by norm.

    Args:
        requirements: The requirements.
        norms: Norms of the attacks.

    Raises:
        RunError: no attack has the norm of a requirement.
    """
    needed: dict[str, tuple[float, ...]] = {}
    for requirement in requirements:
        if requirement.epsilon is not None:
            norm = _norm_of(requirement, norms)
            if not in_grid(requirement.epsilon, needed.get(norm, ())):
                needed[norm] = (*needed.get(norm, ()), requirement.epsilon)
    return needed


def _norm_of(requirement: Requirement, norms: Sequence[str]) -> str:
    """Returns the norm of a requirement: its own, else linf, else the only norm of the attacks."""
    norm = requirement.norm or ("linf" if "linf" in norms else norms[0])
    if norm not in norms:
        raise RunError(f"--require {requirement.text!r}: no attack has the norm {norm}; the attacks use {', '.join(norms)}")
    return norm


def check_countable(network: nn.Module, requirements: Iterable[Requirement]) -> None:
    """Checks, before any measurement, that the parameters and macs that requirements name can be counted.

    Raises:
        RunError: the network runs outside torch.
    """
    for requirement in requirements:
        if requirement.metric in ("parameters", "macs") and why_no_gradients(network) is not None:
            raise RunError(_uncountable(requirement))


def _uncountable(requirement: Requirement) -> str:
    return (
        f"--require {requirement.text!r}: {requirement.metric} cannot be counted, because the network runs outside torch, "
        "without gradients; leave it out"
    )


def check_profile(
    network: str, profile: RobustnessProfile, requirements: Iterable[Requirement], *, point: bool = False
) -> list[RequirementResult]:
    """Returns whether the profile of a network meets requirements.

    Args:
        network: Name of the network.
        profile: Its profile.
        requirements: The requirements.
        point: Compare the measured number instead of its interval.

    Raises:
        RunError: the profile has no number for a requirement.
    """
    norms = list(dict.fromkeys(entry["config"]["norm"] for entry in profile.record["attacks"].values()))
    counts = {
        "failed_checks": len(profile.failed_checks()),
        **{name: count for name, count in profile.record["cost"].items() if count is not None},
    }
    results, exact = [], profile.record["tolerance"] is not None
    for requirement in requirements:
        norm = _norm_of(requirement, norms)
        grid = profile.epsilons(norm)
        results.append(_check(network, requirement, profile.worst_case(norm), grid, counts, exact=exact, point=point))
    return results


def check_comparison(
    comparison: NetworkComparison, requirements: Iterable[Requirement], *, point: bool = False
) -> list[RequirementResult]:
    """Returns whether each network of a comparison meets requirements.

    Args:
        comparison: The comparison.
        requirements: The requirements, all of them on errors.
        point: Compare the measured number instead of its interval.

    Raises:
        RunError: the comparison has no number for a requirement.
    """
    results = []
    for requirement in requirements:
        _norm_of(requirement, [comparison.norm])
        results += [
            _check(network, requirement, radii, comparison.grid, {}, exact=False, point=point)
            for network, radii in comparison.radii.items()
        ]
    return results


def _check(
    network: str,
    requirement: Requirement,
    radii: Floats,
    grid: Sequence[float],
    counts: Mapping[str, int],
    *,
    exact: bool,
    point: bool,
) -> RequirementResult:
    """Returns the result of one requirement, given the worst-case radii of the network, (N,), and its counts."""
    compare, limit = COMPARISONS[requirement.comparison], requirement.limit
    if requirement.metric in COUNTS:
        if requirement.metric not in counts:
            raise RunError(_uncountable(requirement))
        count = counts[requirement.metric]
        return RequirementResult(network, requirement, count, None, compare(count, limit))
    epsilon = requirement.epsilon or 0.0
    inside = epsilon <= max(grid) if exact else in_grid(epsilon, grid)
    if epsilon and not inside:
        measured = ", ".join(map(format_epsilon, grid))
        place = f"--require {requirement.text!r}"
        raise RunError(f"{place}: epsilon {format_epsilon(epsilon)} was not measured; these were: {measured}")
    curve = error_curve(radii, [epsilon])
    value, (low, high) = float(curve.error[0]), curve.error_interval[0].tolist()
    met = compare(value, limit) and (point or (compare(low, limit) and compare(high, limit)))
    return RequirementResult(network, requirement, value, (low, high), met)
