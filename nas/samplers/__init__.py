"""Samplers propose the next architecture.

To add one, write a frozen dataclass with the method `propose` in a file of this package, and add it to `SAMPLERS`.
"""

from nas.samplers.base import FinishedTrial, History, Sampler
from nas.samplers.evolution import Evolution
from nas.samplers.grid import Grid
from nas.samplers.optuna_samplers import NSGA2, TPE, OptunaSampler, Random
from nas.samplers.policy_gradient import PolicyGradient
from nas.samplers.study_sampler import StudySampler
from nas.samplers.surrogate import Surrogate

SAMPLERS: dict[str, type[Sampler]] = {
    "random": Random,
    "grid": Grid,
    "tpe": TPE,
    "nsga2": NSGA2,
    "evolution": Evolution,
    "ppo": PolicyGradient,
    "surrogate": Surrogate,
}

__all__ = [
    "NSGA2",
    "SAMPLERS",
    "TPE",
    "Evolution",
    "FinishedTrial",
    "Grid",
    "History",
    "OptunaSampler",
    "PolicyGradient",
    "Random",
    "Sampler",
    "StudySampler",
    "Surrogate",
]
