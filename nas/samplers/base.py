"""Interface of samplers, and their input: the history of a study.

A sampler is a frozen dataclass of settings with one method, `propose`. It has no state. Its proposals depend only on the
history and the seed, so that a resumed search makes the same proposals as an uninterrupted one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from optuna.study import Study
from optuna.trial import FrozenTrial

from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    from search_spaces import Value


@final
@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial.

    Attributes:
        number: Number of the trial.
        key: Hash of the canonical architecture.
        architecture: The proposed architecture.
        values: Objectives, to be minimised; None if the trial failed, was pruned, or was excluded by a constraint before
            its training.
        constraints: (metric - bound) / |bound| of each constraint, by name, with a divisor of 1 if the bound is 0. The
            trial is feasible if no value is above 0.
    """

    number: int
    key: str
    architecture: Architecture
    values: tuple[float, ...] | None
    constraints: Mapping[str, float]

    @property
    def violation(self) -> float:
        """Sum of the positive values of `constraints`; 0 if the trial is feasible."""
        return sum(max(0.0, value) for value in self.constraints.values())


@final
@dataclass(frozen=True)
class History:
    """Input of the proposal for one trial.

    Attributes:
        space: The search space.
        objectives: Number of objectives.
        finished: Finished trials with smaller numbers than this trial, ordered by number.
        keys: Hashes of the canonical architectures of all trials with smaller numbers than this trial, including running
            trials.
        start: Number of the first trial that the sampler proposes. Earlier trials come from `search.first` or are drawn
            uniformly.
        study: The study, for Optuna's samplers.
        trial: The trial for which an architecture is proposed, for Optuna's samplers.
        key_of: Function that returns the hash of an architecture's canonical form. It caches the hashes.
        cache: Cache for results of earlier proposals, by class of the sampler. It must not change
            the proposals.
    """

    space: SearchSpace
    objectives: int
    finished: tuple[FinishedTrial, ...]
    keys: Set[str]
    start: int
    study: Study = field(repr=False)
    trial: FrozenTrial = field(repr=False)
    key_of: Callable[[Architecture], str] = field(repr=False)
    cache: dict[type[Sampler], Any] = field(default_factory=dict, repr=False)

    @property
    def measured(self) -> tuple[FinishedTrial, ...]:
        """Finished trials with objective values."""
        return tuple(trial for trial in self.finished if trial.values is not None)

    def is_new(self, architecture: Architecture) -> bool:
        """Returns whether no trial with a smaller number has an equivalent architecture."""
        return self.key_of(architecture) not in self.keys


class Sampler(ABC):
    """Proposes architectures. A subclass is a frozen dataclass of settings.

    Attributes:
        max_resamples: Number of further seeds to try if a proposal is not new. After that, a new neighbour of the last
            proposal is used.
    """

    max_resamples: ClassVar[int] = 2

    @abstractmethod
    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns an architecture. It may be equivalent to that of an earlier trial.

        Args:
            history: Space, finished trials and hashes of the earlier trials.
            seed: Seed of the proposal.
        """
