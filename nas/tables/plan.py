"""Plan of a table: its architectures, in random order, and the seeds of their trainings."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from nas.errors import RunError
from nas.executors import Job
from nas.seeds import seed_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from search_spaces import Architecture, SearchSpace

# Largest space whose architectures are listed. In larger spaces, architectures are drawn.
LISTED = 10**6
# Number of consecutive draws without a new architecture after which a space counts as exhausted.
DRAWS = 10_000
MOST_SEEDS = 1000


@final
@dataclass(frozen=True)
class TablePlan:
    """The rows that a table will have.

    Attributes:
        architectures: Number of architectures; None for all of the space.
        seeds: Number of trainings of each architecture, with different seeds.

    Raises:
        TypeError: a number is not an int.
        ValueError: a number is below 1, or there are more than 1000 seeds.
    """

    architectures: int | None
    seeds: int = 1

    def __post_init__(self) -> None:
        for name, value in (("architectures", self.architectures), ("seeds", self.seeds)):
            if value is not None and not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
        if self.architectures is not None and self.architectures < 1:
            raise ValueError(f"architectures must be at least 1, got {self.architectures}")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ValueError(f"seeds must be from 1 to {MOST_SEEDS}, got {self.seeds}")


def planned_architectures(space: SearchSpace, plan: TablePlan, seed: int) -> list[Architecture]:
    """Returns the canonical forms of the planned architectures, without equivalent ones.

    They are drawn uniformly from all architectures, so one with many equivalent forms tends to come early. A longer plan
    with the same seed begins with the architectures of a shorter one.

    Raises:
        RunError: the space has fewer architectures, or is too large for a table of all.
    """
    count = plan.architectures
    if count is None and space.size > LISTED:
        raise RunError(
            f"space {space.name}: a table of all of its {space.size:,} architectures is too large; choose a number of "
            "architectures"
        )
    drawn = _in_random_order(space, seed) if space.size <= LISTED else _drawn(space, seed)
    planned: dict[str, Architecture] = {}
    since_new = 0
    for architecture in drawn:
        canonical = space.canonical(architecture)
        before = len(planned)
        planned.setdefault(space.key(canonical), canonical)
        if len(planned) == count:
            break
        since_new = 0 if len(planned) > before else since_new + 1
        if space.size > LISTED and since_new >= DRAWS:
            break
    if count is not None and len(planned) < count:
        found = f"{len(planned):,} architectures that differ" + (" were found" if space.size > LISTED else "")
        raise RunError(f"space {space.name}: has no {count:,} architectures: {found}; choose fewer, or all")
    return list(planned.values())


def planned_jobs(space: SearchSpace, architectures: list[Architecture], plan: TablePlan, seed: int) -> Iterator[Job]:
    """Yields the jobs of a table: the first seed of all architectures, then the second, and so on.

    The number of a job does not depend on the plan, and its seed only on architecture, number of the seed, and `seed`.

    Args:
        space: The search space.
        architectures: Canonical architectures, as from `planned_architectures`.
        plan: The plan.
        seed: Seed of the config.
    """
    for number in range(plan.seeds):
        for index, architecture in enumerate(architectures):
            own = seed_of(seed, f"table {space.key(architecture)}", number)
            yield Job(index * MOST_SEEDS + number, architecture, architecture, own)


def seed_number(job: Job) -> int:
    """Returns the number of a job's seed, from 0."""
    return job.number % MOST_SEEDS


def _in_random_order(space: SearchSpace, seed: int) -> Iterator[Architecture]:
    order = list(range(space.size))
    random.Random(seed).shuffle(order)
    return (space.at(index) for index in order)


def _drawn(space: SearchSpace, seed: int) -> Iterator[Architecture]:
    generator = random.Random(seed)
    while True:
        yield space.sample(generator)
