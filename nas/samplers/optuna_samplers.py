"""Optuna's samplers for architectures: random, TPE, NSGA-II."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from nas.samplers.base import Sampler

if TYPE_CHECKING:
    from nas.samplers.base import History
    from search_spaces import Value


class OptunaSampler(Sampler):
    """Base of Optuna's samplers. A new Optuna sampler is created for every proposal, so that proposals share no state."""

    @abstractmethod
    def make(self, history: History, seed: int) -> BaseSampler:
        """Returns a seeded Optuna sampler."""

    @final
    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns the suggestion of Optuna's sampler. Choices that it does not sample jointly are sampled independently."""
        study, trial = history.study, history.trial
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = self.make(history, seed)
            together = sampler.infer_relative_search_space(study, trial)
            suggested = sampler.sample_relative(study, trial, together)
            return {
                name: suggested[name]
                if name in suggested
                else sampler.sample_independent(study, trial, name, CategoricalDistribution(choice.values))
                for name, choice in history.space.choices.items()
            }


@final
@dataclass(frozen=True, kw_only=True)
class Random(OptunaSampler):
    """Draws every architecture uniformly."""

    # Draws again until the architecture is new, so that proposals are uniform over the new architectures.
    max_resamples: ClassVar[int] = 1000

    def make(self, history: History, seed: int) -> BaseSampler:
        """Returns Optuna's random sampler."""
        return RandomSampler(seed=seed)


@final
@dataclass(frozen=True, kw_only=True)
class TPE(OptunaSampler):
    """Tree-structured Parzen estimator, multivariate, with constraints, for one or several objectives.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; Ozaki et al., "Multiobjective
    Tree-Structured Parzen Estimator", JAIR 2022.

    Attributes:
        candidates: Number of candidates drawn for one proposal. The most promising one is proposed.

    Raises:
        ValueError: candidates is below 1.
    """

    candidates: int = 24

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")

    def make(self, history: History, seed: int) -> BaseSampler:
        """Returns Optuna's TPE. Its random start-up has one trial only, because `search.random_trials` replaces it."""
        return TPESampler(
            seed=seed, n_startup_trials=1, n_ei_candidates=self.candidates, multivariate=True, constant_liar=True
        )


@final
@dataclass(frozen=True, kw_only=True)
class NSGA2(OptunaSampler):
    """Non-dominated sorting genetic algorithm II, with constraints, for one or several objectives.

    Source: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE TEC 2002.

    Attributes:
        population: Number of architectures in one generation.
        crossover: Probability that a child has two parents.
        mutation: Probability that a choice of a child is redrawn; null for 1 / number of choices.

    Raises:
        ValueError: a value is out of range.
    """

    population: int = 20
    crossover: float = 0.9
    mutation: float | None = None

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"population must be at least 2, got {self.population}")
        for name in ("crossover", "mutation"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {value:g}")

    def make(self, history: History, seed: int) -> BaseSampler:
        """Returns Optuna's NSGA-II. It stores its generations in the study."""
        return NSGAIISampler(
            seed=seed, population_size=self.population, crossover_prob=self.crossover, mutation_prob=self.mutation
        )
