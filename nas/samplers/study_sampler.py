"""Optuna sampler of a study. It wraps a Sampler, makes proposals reproducible and avoids duplicates."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, final

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler

from nas.errors import RunError, format_error
from nas.samplers.base import FinishedTrial, History, Sampler
from nas.samplers.optuna_samplers import Random
from nas.seeds import seed_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from search_spaces import Architecture, SearchSpace, Value

# User attribute with the complete proposal. After a kill, the parameters of a trial may be incomplete.
PROPOSED = "proposed"
KEY = "key"


@final
class StudySampler(BaseSampler):
    """Proposes an architecture for each trial from the run's seed, the trial's number and the earlier trials.

    The first trials use the given architectures. The next trials are drawn uniformly, and a sampler proposes the others.
    While new architectures exist, only a given architecture may be equivalent to an earlier one. Several samplers of one
    space may share `keys`, the hashes of canonical forms by the values of the choices.
    """

    def __init__(
        self,
        sampler: Sampler,
        space: SearchSpace,
        *,
        seed: int,
        random_trials: int,
        first: Sequence[Architecture] = (),
        keys: dict[tuple[Value, ...], str] | None = None,
    ) -> None:
        self._sampler, self._space, self._seed, self._first = sampler, space, seed, first
        self._start = len(first) + random_trials
        # Caches of constant data: keys of architectures and finished trials.
        self._keys = {} if keys is None else keys
        self._finished: dict[int, tuple[FrozenTrial, FinishedTrial]] = {}
        self._exhausted = -1
        self._cache: dict[type[Sampler], Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns all choices, because they are proposed together."""
        return {name: CategoricalDistribution(choice.values) for name, choice in self._space.choices.items()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Returns an architecture for a trial."""
        proposed = trial.user_attrs.get(PROPOSED)
        if proposed is not None:
            return dict(proposed)
        if trial.number < len(self._first):
            return dict(self._first[trial.number])
        return self._propose_new(self._history(study, trial))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Raises ValueError, because Optuna calls this method only for choices that are not in the space."""
        raise ValueError(f"{self._space.name} has no choice {param_name!r} with these values")

    def _history(self, study: Study, trial: FrozenTrial) -> History:
        finished, keys = [], set()
        for other in study.get_trials(deepcopy=False):
            if other.number >= trial.number:
                continue
            known = self._finished.get(other.number)
            if known is None or known[0] is not other:
                architecture = other.user_attrs.get(PROPOSED) or other.params
                if architecture.keys() != self._space.choices.keys():
                    continue  # The process was killed before the proposal.
                key = other.user_attrs.get(KEY) or self.key_of(architecture)
                constraints = dict(other.constraints)
                values = tuple(other.values) if other.state.name == "COMPLETE" else None
                known = other, FinishedTrial(other.number, key, architecture, values, constraints)
                if other.state.is_finished():
                    self._finished[other.number] = known
            keys.add(known[1].key)
            if other.state.is_finished():
                finished.append(known[1])
        return History(
            space=self._space,
            objectives=len(study.directions),
            finished=tuple(finished),
            keys=keys,
            start=self._start,
            study=study,
            trial=trial,
            key_of=self.key_of,
            cache=self._cache,
        )

    def key_of(self, architecture: Architecture) -> str:
        """Returns the hash of an architecture's canonical form."""
        values = tuple(architecture[name] for name in self._space.choices)
        if values not in self._keys:
            self._keys[values] = self._space.key(architecture)
        return self._keys[values]

    def _propose_new(self, history: History) -> dict[str, Value]:
        """Returns a new proposal of the sampler, or else a new architecture near it, or an old one if none is new."""
        number = history.trial.number
        sampler = Random() if number < self._start else self._sampler
        for redraw in range(sampler.max_resamples + 1):
            purpose = "architecture" if redraw == 0 else f"architecture, redraw {redraw}"
            proposed = self._checked_proposal(sampler, history, seed_of(self._seed, purpose, number))
            if history.is_new(proposed) or len(history.keys) == self._exhausted:
                return proposed
        for near in self._by_distance(proposed, random.Random(seed_of(self._seed, "neighbour", number))):
            if history.is_new(near):
                return near
        self._exhausted = len(history.keys)
        return proposed

    def _checked_proposal(self, sampler: Sampler, history: History, seed: int) -> dict[str, Value]:
        """Returns the validated proposal of a sampler, which may be custom."""
        try:
            return self._space.validate(sampler.propose(history, seed))
        except Exception as error:  # A custom sampler may raise any error.
            raise RunError(
                f"search.sampler: {type(sampler).__name__} does not propose a valid architecture: {format_error(error)}"
            ) from error

    def _by_distance(self, centre: Mapping[str, Value], generator: random.Random) -> Iterator[dict[str, Value]]:
        """Yields all other architectures in order of the number of different choices, in random order among equals."""
        front, seen = [dict(centre)], {tuple(centre.values())}
        while front:
            reached = []
            for start in front:
                for near in self._space.neighbours(start):
                    values = tuple(near.values())
                    if values not in seen:
                        seen.add(values)
                        reached.append(near)
            generator.shuffle(reached)
            yield from reached
            front = reached
