"""What a sampler is, and what it may know: the history of a study.

A sampler is a frozen dataclass of settings with one method, `propose`. It has no state: what it proposes depends on the
history and the seed alone, so that a resumed search proposes what an uninterrupted one would have.
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
    """A trial that has ended, as a sampler sees it.

    Attributes:
        number: Its number.
        key: Hash of its canonical architecture.
        architecture: The architecture, as it was proposed.
        values: The objectives, all to be minimised; None where it has none: it failed, was infeasible, or was pruned.
        constraints: Excess over each bound, by name, feasible where 0 or less; those that are known.
    """

    number: int
    key: str
    architecture: Architecture
    values: tuple[float, ...] | None
    constraints: Mapping[str, float]

    @property
    def violation(self) -> float:
        """Sum of the excesses over the constraints; 0 where it is feasible."""
        return sum(max(0.0, value) for value in self.constraints.values())


@final
@dataclass(frozen=True)
class History:
    """What is known when a trial is to be proposed.

    Attributes:
        space: The search space.
        objectives: Number of objectives.
        finished: The trials with smaller numbers that have ended, by number.
        keys: Hashes of the canonical architectures of all trials with smaller numbers, those that still run included.
        start: Number of the first trial that the sampler proposes; those before it were given, or drawn uniformly.
        study: The study, for samplers of Optuna.
        trial: The trial, for samplers of Optuna.
        key_of: Returns the hash of an architecture's canonical form, each computed once.
        cache: What a sampler has computed for earlier proposals of this study, by its class; no proposal depends on it.
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
        """The trials that have values."""
        return tuple(trial for trial in self.finished if trial.values is not None)

    def is_new(self, architecture: Architecture) -> bool:
        """Returns whether no trial has an architecture of equal function."""
        return self.key_of(architecture) not in self.keys


class Sampler(ABC):
    """Proposes architectures. A subclass is a frozen dataclass of settings.

    Attributes:
        max_resamples: How often another seed is tried where a proposal is not new; after that a neighbour of the last
            proposal is taken.
    """

    max_resamples: ClassVar[int] = 2

    @abstractmethod
    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns an architecture, whether or not a trial has one of equal function."""
