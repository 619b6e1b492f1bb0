"""Regularised evolution: the oldest die, whatever they were worth.

Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, arXiv:1802.01548. Ours goes
beyond it in that it knows constraints and several objectives, and tries again where a child is not new.
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

# Tournaments held for one proposal before a child that is not new is proposed.
TOURNAMENTS = 20


@final
@dataclass(frozen=True, kw_only=True)
class Evolution(Sampler):
    """Mutates the best of a few, drawn from the newest trials.

    The best is the one with the least violation of the constraints, among feasible ones the one with the smallest value, or,
    for several objectives, the one of the first front, and on it the least crowded.

    Attributes:
        population: How many of the newest measured trials may be parents.
        tournament: How many of them are drawn, of which the best is the parent.
        crossover: Probability that a child takes its choices from two parents, evenly, before it is mutated.
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
        """Returns a child of the newest trials; an architecture at random where there is none to descend from."""
        generator = random.Random(seed)
        population = self._population(history)
        if not population:
            return history.space.sample(generator)
        points = [trial.values or (np.inf,) * history.objectives for trial in population]
        places = constrained_rank(points, [trial.violation for trial in population]).tolist()

        def winner() -> FinishedTrial:
            drawn = [generator.randrange(len(population)) for _ in range(self.tournament)]
            return population[min(drawn, key=places.__getitem__)]

        for _ in range(TOURNAMENTS):
            parent = winner().architecture
            if generator.random() < self.crossover:
                parent = history.space.crossover(parent, winner().architecture, generator)
            child = history.space.mutate(parent, generator)
            if history.is_new(child):
                break
        return child

    def _population(self, history: History) -> Sequence[FinishedTrial]:
        """Returns the newest measured trials; where none was measured, the newest of which the violation is known."""
        return (history.measured or [trial for trial in history.finished if trial.violation > 0])[-self.population :]
