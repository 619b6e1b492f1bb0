"""Samplers: who proposes the next architecture.

Each is a setting that makes an Optuna sampler for one trial. Randomness comes from the run's seed and the trial's number
alone and there is no hidden state, so a resumed search proposes what an uninterrupted one would have.

To add one: write a frozen dataclass with a `make`, and name it in `SAMPLERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from nas.seeds import seed_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState


class Sampler(ABC):
    """Makes the Optuna sampler of one trial. A subclass is a frozen dataclass of settings."""

    @abstractmethod
    def make(self, seed: int) -> BaseSampler:
        """Returns an Optuna sampler that draws from this seed and knows no more than the study that it is asked about."""


@final
@dataclass(frozen=True, kw_only=True)
class Random(Sampler):
    """Draws every architecture uniformly."""

    def make(self, seed: int) -> BaseSampler:
        """Returns Optuna's random sampler."""
        return RandomSampler(seed=seed)


@final
@dataclass(frozen=True, kw_only=True)
class TPE(Sampler):
    """Tree-structured Parzen estimator, multivariate, with constraints.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.

    Attributes:
        candidates: Candidates drawn for one proposal, of which the most promising is taken.
    """

    candidates: int = 24

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")

    def make(self, seed: int) -> BaseSampler:
        """Returns Optuna's TPE; the start at random is `search.random_trials`, so its own is off."""
        return TPESampler(seed=seed, n_startup_trials=1, n_ei_candidates=self.candidates)


SAMPLERS: dict[str, type[Sampler]] = {"tpe": TPE, "random": Random}


@final
class SeededSampler(BaseSampler):
    """The sampler of a study: a new one for each trial, seeded by the trial's number.

    The architectures of the first trials are given, those of the next ones drawn uniformly.
    """

    def __init__(self, sampler: Sampler, *, seed: int, random_trials: int, first: Sequence[Mapping[str, Any]] = ()) -> None:
        self._sampler, self._seed, self._random_trials, self._first = sampler, seed, random_trials, first
        # The trial in hand, known by its study and number, and its sampler.
        self._current: tuple[Study | None, int, BaseSampler] = (None, -1, RandomSampler())

    def _of(self, study: Study, number: int) -> BaseSampler:
        if self._current[0] is not study or self._current[1] != number:
            made = self._sampler_of(number).make(seed_of(self._seed, "architecture", number))
            self._current = (study, number, made)
        return self._current[2]

    def _sampler_of(self, number: int) -> Sampler:
        """Returns what draws a trial's architecture; of one that is given, nothing is drawn together."""
        return Random() if number < len(self._first) + self._random_trials else self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns the choices that are sampled together."""
        return self._of(study, trial.number).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Returns the values of the choices that are sampled together."""
        return self._of(study, trial.number).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns the value of one choice, which depends on no other: a killed process may have left only some of them."""
        if trial.number < len(self._first):
            return self._first[trial.number][param_name]
        own = self._sampler_of(trial.number).make(seed_of(self._seed, f"choice {param_name}", trial.number))
        return own.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tells the trial's sampler that it begins."""
        self._of(study, trial.number).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tells the trial's sampler that it ended."""
        self._of(study, trial.number).after_trial(study, trial, state, values)


def quiet() -> None:
    """Keeps Optuna's own log lines out of the display; warnings stay."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
