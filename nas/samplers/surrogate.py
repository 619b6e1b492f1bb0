"""Bayesian optimisation: a surrogate model chooses the most promising of many candidate architectures.

Sources:
Expected improvement: Jones, Schonlau and Welch, "Efficient Global Optimization of Expensive Black-Box Functions", 1998.
Its logarithm: Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", NeurIPS 2023,
arXiv:2310.20708.
Constraints: Gardner et al., "Bayesian Optimization with Inequality Constraints", ICML 2014.
Several objectives: Knowles, "ParEGO", IEEE TEC 2006.
Mutations of the best trials as candidates: White, Neiswanger and Savani, "BANANAS", AAAI 2021, arXiv:1910.11858.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtri
from threadpoolctl import threadpool_limits

from nas.samplers.base import Sampler
from nas.samplers.gaussian_process import distances_to, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nas.samplers.base import FinishedTrial, History
    from nas.samplers.gaussian_process import Floats
    from search_spaces import Value

# Number of samples from the predicted objectives of each candidate, to estimate the expected improvement.
DRAWS = 128
# Weight of the sum in the augmented Chebyshev scalarisation (Knowles, 2006).
AUGMENTATION = 0.05
# Share of uniform candidates, share of children of two parents, and probability of one more mutated choice.
UNIFORM, CROSSED, FURTHER = 0.2, 0.2, 0.4


@final
@dataclass(frozen=True, kw_only=True)
class Surrogate(Sampler):
    """Bayesian optimisation with a model of each objective and constraint. Maximises the expected improvement.

    With several objectives, each proposal uses random weights of the objectives. While no trial is feasible, the proposal
    maximises the probability of feasibility.

    Attributes:
        start: Number of trials with values of objectives or constraints before the model is used. Before that, proposals are
            uniform. After 20 trials, 10 is ahead of 20 (examples/results/samplers); after 50, they are about equal.
        candidates: Number of candidates for a proposal: children of the best trials, and some uniform ones.
        parents: Number of the best trials whose children are candidates.
        points: Maximum number of trials in a fit: half of them the best, the others random.

    Raises:
        ValueError: a value is out of range.
    """

    start: int = 10
    candidates: int = 300
    parents: int = 20
    points: int = 250

    def __post_init__(self) -> None:
        for name, least in (("start", 0), ("candidates", 1), ("parents", 1), ("points", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns the most promising new architecture, or a uniform one while there are fewer than `start` trials."""
        generator, numbers = random.Random(seed), np.random.default_rng(seed)
        weights = numbers.dirichlet(np.ones(history.objectives))
        known = _ranked([trial for trial in history.finished if trial.values is not None or trial.constraints], weights)
        if len(known) < max(1, self.start):
            return _first_new(history, [history.space.sample(generator) for _ in range(self.candidates)])
        pool = self._pool(history, known, generator)
        if len(known) > self.points:
            best = self.points // 2
            others = numbers.choice(np.arange(best, len(known)), self.points - best, replace=False)
            known = known[:best] + [known[place] for place in sorted(others)]
        # At this matrix size, several threads are slower than one, on a busy machine by a factor of ten.
        with threadpool_limits(1):
            promise = _promise(history, known, pool, weights, numbers)
        return _first_new(history, [pool[place] for place in np.argsort(-promise, kind="stable")])

    def _pool(self, history: History, known: Sequence[FinishedTrial], generator: random.Random) -> list[dict[str, Value]]:
        """Returns distinct candidates. There may be fewer than `candidates` in a small space."""
        space, parents = history.space, [trial.architecture for trial in known[: self.parents]]
        free = [name for name, choice in space.choices.items() if len(choice.values) > 1]
        pool: dict[str, dict[str, Value]] = {}
        for _ in range(2 * self.candidates):
            kind = generator.random()
            if kind < UNIFORM:
                child = space.sample(generator)
            else:
                # Better trials are more likely to be parents.
                child = dict(parents[int(len(parents) * generator.random() ** 2)])
                if kind < UNIFORM + CROSSED:
                    child = space.crossover(child, generator.choice(parents), generator)
                changes = 1
                while generator.random() < FURTHER:
                    changes += 1
                for name in generator.sample(free, min(changes, len(free))):
                    child[name] = generator.choice([v for v in space.choices[name].values if repr(v) != repr(child[name])])
            pool.setdefault(repr([*child.values()]), child)
            if len(pool) == self.candidates:
                break
        return list(pool.values())


def _first_new(history: History, candidates: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """Returns the first new candidate, or the first candidate if none is new."""
    return next((candidate for candidate in candidates if history.is_new(candidate)), candidates[0])


def _ranked(trials: Sequence[FinishedTrial], weights: Floats) -> list[FinishedTrial]:
    """Returns trials ordered by violation, then by the weighted ranks of the objectives, best first."""
    from scipy.stats import rankdata  # Slow to import.

    measured = [(trial.number, trial.values) for trial in trials if trial.values is not None]
    ranks = np.array([rankdata([_number(values[place]) for _, values in measured]) for place in range(len(weights))])
    cost = dict(zip((number for number, _ in measured), _weighed(ranks, weights), strict=True))
    return sorted(trials, key=lambda trial: (_number(trial.violation), cost.get(trial.number, np.inf), trial.number))


def _number(value: float) -> float:
    """Returns a value, with infinity for NaN."""
    return np.inf if value != value else value


def _weighed(costs: Floats, weights: Floats) -> Floats:
    """Returns the augmented Chebyshev scalarisation, (...), of M objectives, (M, ...). Smaller is better."""
    weighted = weights.reshape(-1, *[1] * (costs.ndim - 1)) * costs
    return np.asarray(weighted.max(0) + AUGMENTATION * weighted.sum(0))


def _promise(
    history: History,
    known: list[FinishedTrial],
    pool: Sequence[dict[str, Value]],
    weights: Floats,
    numbers: np.random.Generator,
) -> Floats:
    """Returns ln(expected improvement) + ln(probability of feasibility) of A candidates, (A,), up to a constant.

    While no trial is feasible, only the second term is used.
    """
    count = len(known)
    distances = distances_to(history.space, [*(trial.architecture for trial in known), *pool], count)

    def predicted(values: Floats, has: NDArray[np.intp]) -> tuple[Floats, Floats, float]:
        ensemble = fit(distances[:, has][:, :, has], values)
        return *ensemble.predict(distances[:, count:][:, :, has]), ensemble.noise

    promise = np.zeros(len(pool))
    for name in sorted({name for trial in known for name in trial.constraints}):
        has = np.flatnonzero([name in trial.constraints for trial in known])
        mean, deviation, noise = predicted(_excess(np.array([known[i].constraints[name] for i in has])), has)
        # Feasibility is decided on the measured value, so the noise counts.
        promise += log_ndtr(-mean / np.hypot(deviation, noise))
    has = np.flatnonzero([trial.values is not None for trial in known])
    feasible = np.array([known[i].violation == 0 for i in has], dtype=bool)
    if not feasible.any():
        return promise
    measured = np.array([known[i].values for i in has], dtype=float).T
    # No transform suits all objectives, so each proposal draws one.
    transform = _by_rank if numbers.random() < 0.5 else _by_size
    costs = np.stack([transform(values) for values in measured])
    levels = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    draws = np.empty((len(costs), len(pool), DRAWS))
    for number, cost in enumerate(costs):
        mean, deviation, _ = predicted(cost, has)
        draws[number] = mean[:, None] + deviation[:, None] * numbers.permutation(levels)
    # Scale each objective to [0, 1] over the feasible trials.
    least = costs[:, feasible].min(1, keepdims=True)
    extent = np.ptp(costs[:, feasible], axis=1, keepdims=True)
    extent[extent == 0] = 1
    best = _weighed((costs[:, feasible] - least) / extent, weights).min()
    gain = (best - _weighed((draws - least[..., None]) / extent[..., None], weights)) / 0.01
    # Softplus, so that candidates without improvement in any draw still differ.
    return np.asarray(promise + logsumexp(np.log(np.logaddexp(0, np.maximum(gain, -600))), axis=1))


def _by_rank(values: Floats) -> Floats:
    """Returns normal scores (T,), which depend only on the order of the values."""
    from scipy.stats import rankdata  # Slow to import.

    return np.asarray(ndtri((rankdata(np.nan_to_num(values, nan=np.inf)) - 0.5) / len(values)))


def _by_size(values: Floats) -> Floats:
    """Returns values scaled to [0, 1], (T,). Values above 2 * median - minimum are clipped."""
    values = np.nan_to_num(values, nan=np.inf, posinf=1e300, neginf=-1e300)
    values = values / (np.abs(values).max() or 1.0)
    least, median = values.min(), np.median(values)
    most = 2 * median - least if median > least else values.max()
    return np.asarray((np.minimum(values, most) - least) / (most - least or 1.0))


def _excess(values: Floats) -> Floats:
    """Returns scaled excesses over a bound (T,). Large ones are compressed, and the sign is kept."""
    values = np.nan_to_num(values, nan=np.inf, posinf=1e300, neginf=-1e300)
    unit = float(np.median(np.abs(values))) or 1.0
    return np.asarray(np.arcsinh(np.clip(values / unit, -1e3, 1e3)))
