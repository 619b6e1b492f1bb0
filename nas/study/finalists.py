"""Choice of the finalists and references, which are retrained, profiled on the test split and exported.

A reference is a network with which the best finalist is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import torch

from evaluators import parameters
from nas.spaces.config import SpaceConfig
from nas.spaces.options import open_space
from nas.study.ranking import ranked
from search_spaces.spaces.macro import plain_architectures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.config.schema import Config
    from nas.study.trial import Trial

Role = Literal["finalist", "random", "residual"]


@final
@dataclass(frozen=True)
class Candidate:
    """An architecture to be retrained, profiled and exported.

    Attributes:
        name: Name of the bundle: rank and hash, or role and hash.
        role: finalist; random (the random candidate of median rank); or residual (the plain residual network with the
            number of parameters closest to that of the best finalist).
        space: Search space of the architecture.
        architecture: The canonical architecture.
        key: Hash of the architecture.
        trial: Number of the trial; None for the residual network.
    """

    name: str
    role: Role
    space: SpaceConfig
    architecture: Mapping[str, Any]
    key: str
    trial: int | None


def choose_finalists(trials: Sequence[Trial], config: Config, count: int) -> list[Candidate]:
    """Returns the best architectures of the search, at most `count`, best first."""
    return [
        Candidate(f"{rank}-{trial.key}", "finalist", config.space, trial.architecture, trial.key, trial.number)
        for rank, trial in enumerate(ranked(trials, config.objective)[:count], start=1)
    ]


def choose_references(
    trials: Sequence[Trial], config: Config, input_shape: tuple[int, int, int], num_classes: int
) -> list[Candidate]:
    """Returns the median random candidate and the residual network closest in parameters to the best finalist.

    The median is over the ranking of the complete and the pruned trials that were drawn uniformly. Of two middle trials, the
    better one is chosen. Pruned trials rank below complete trials, and lower if they were pruned earlier. Without such
    trials, there is no random candidate. Without complete trials, there is no residual network.

    Args:
        trials: All trials of the search.
        config: The settings of the run.
        input_shape: Channels, height and width of an image.
        num_classes: Number of classes K.
    """
    references = []
    drawn = [*ranked([trial for trial in trials if trial.random], config.objective), *_stopped(trials)]
    if drawn:
        median = drawn[(len(drawn) - 1) // 2]
        references.append(
            Candidate(f"random-{median.key}", "random", config.space, median.architecture, median.key, median.number)
        )
    best = ranked(trials, config.objective)
    if best:
        references.append(_residual(best[0].metrics["parameters"], input_shape, num_classes))
    return references


def _stopped(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the uniformly drawn, pruned trials from best to worst: by last epoch, then by the metrics of that epoch."""
    stopped = [trial for trial in trials if trial.random and trial.state == "pruned"]
    return sorted(stopped, key=lambda trial: (-trial.rungs[-1]["epoch"], trial.rungs[-1]["point"], trial.number))


def _residual(size: float, input_shape: tuple[int, int, int], num_classes: int) -> Candidate:
    """Returns the plain residual network with the number of parameters closest to `size` in ratio."""
    # The last stage has at least 4 x 4 pixels, unless the images are smaller.
    stages = max(1, min(3, int(math.log2(min(input_shape[1:]))) - 1))
    config = SpaceConfig(name="macro", options={"stages": stages})
    space = open_space(config, trust=True)

    def distance(architecture: Mapping[str, Any]) -> float:
        with torch.device("meta"):
            return abs(math.log(parameters(space.build(architecture, input_shape, num_classes)) / size))

    nearest = min(plain_architectures(stages), key=distance)
    key = space.key(nearest)
    return Candidate(f"residual-{key}", "residual", config, nearest, key, None)
