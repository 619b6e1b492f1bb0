"""Regularised (ageing) evolution: only the newest trials are parents.

Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, arXiv:1802.01548.
Extensions: constraints, several objectives, crossover, and a retry if a child is not new.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from nas.pareto import constrained_rank
from nas.samplers.base import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.samplers.base import FinishedTrial, History
    from search_spaces import Value

# Maximum number of children for one proposal. The last one is proposed even if it is not new.
MOST_CHILDREN = 20


@final
@dataclass(frozen=True, kw_only=True)
class Evolution(Sampler):
    """Mutates the winner of a tournament among the newest trials.

    Trials are compared by their violation of the constraints. Feasible trials are compared by the objective, or with several
    objectives by front and crowding distance.

    Attributes:
        population: Number of the newest measured trials that may be parents.
        tournament: Number of trials drawn for a tournament. The best one is the parent.
        crossover: Probability that a child has two parents. Each choice then comes from one of the two, before the
            mutation.

    Raises:
        ValueError: a value is out of range.
    """

    population: int = 50
    tournament: int = 10
    crossover: float = 0.0

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"population must be at least 2, got {self.population}")
        if self.tournament < 1:
            raise ValueError(f"tournament must be at least 1, got {self.tournament}")
        if not 0 <= self.crossover <= 1:
            raise ValueError(f"crossover must be from 0 to 1, got {self.crossover:g}")

    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns a child of the newest trials, or a random architecture if there are no parents."""
        generator = random.Random(seed)
        population = self._population(history)
        if not population:
            return history.space.sample(generator)
        points = [trial.values or (np.inf,) * history.objectives for trial in population]
        places = constrained_rank(points, [trial.violation for trial in population]).tolist()

        def winner() -> FinishedTrial:
            drawn = [generator.randrange(len(population)) for _ in range(self.tournament)]
            return population[min(drawn, key=places.__getitem__)]

        for _ in range(MOST_CHILDREN):
            parent = winner().architecture
            if generator.random() < self.crossover:
                parent = history.space.crossover(parent, winner().architecture, generator)
            child = history.space.mutate(parent, generator)
            if history.is_new(child):
                break
        return child

    def _population(self, history: History) -> Sequence[FinishedTrial]:
        """Returns the newest measured trials. If there are none, returns the newest trials that violate constraints."""
        return (history.measured or [trial for trial in history.finished if trial.violation > 0])[-self.population :]
