"""The settings of a run: frozen dataclasses that check themselves and do nothing else.

The docstrings are the documentation of the YAML keys: `hardcell config` prints them as comments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from evaluators.attacks import DDN, FGSM, FMN, PGD, Attack, StepLL, margin
from evaluators.profiles.record import check_names
from nas.config.evaluators import EvaluatorConfig, TableEvaluatorConfig, TrainEvaluatorConfig
from nas.config.storage_url import validate_url
from nas.data.config import DataConfig
from nas.executors import Executor, Local
from nas.samplers import TPE, Sampler
from nas.spaces.architectures import InitialArchitecture
from nas.spaces.config import SpaceConfig
from nas.training.config import TrainingConfig
from nas.training.early_stopping import Halving
from nas.validation import bounded, check_bounds, format_number, raise_if_invalid
from search_spaces import Architecture  # noqa: TC001 (config files are read by annotations)

# A network, the images (a Dataset) and the Config, to numbers by name.
Recorder = Callable[..., Mapping[str, float]]


@final
@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a trial is scored, on the validation split.

    Attributes:
        epsilon: Size of the ball for adversarial_error, in pixel units (pixels in [0, 1]; write 8/255 if you like).
        epsilons: Further epsilons at which trials are attacked, for the metrics that need an error curve; null for none.
        attacks: Attacks by name; an image counts as wrong when any of them fools the network.
        images: At most this many validation images.
        record: path/to/file.py:NAME, a function of your own that gets each trained network, the images and this config; what
            numbers it returns, by name, are kept with the trial. Null for none.
    """

    epsilon: float = bounded(0.12, 1e-6)
    epsilons: tuple[float, ...] | None = None
    attacks: Mapping[str, Attack] = field(default_factory=lambda: {"pgd": PGD(), "pgd_margin": PGD(loss=margin)})
    images: int = bounded(1000, 1)
    record: Recorder | None = None

    def grid(self) -> list[float]:
        """Returns all epsilons at which trials are attacked, increasing."""
        return sorted({*(self.epsilons or ()), self.epsilon})

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        if self.epsilons is not None and (not self.epsilons or not all(0 < e <= 1e6 for e in self.epsilons)):
            faults.append(
                ("epsilons", f"must hold epsilons above 0 in pixel units (8/255, not 8), got {list(self.epsilons)}")
            )
        if not self.attacks:
            faults.append(("attacks", "must name at least one attack"))
        elif len({attack.norm.name for attack in self.attacks.values()}) > 1:
            faults.append(("attacks", "must share one norm, for epsilon to mean one thing"))
        elif max(self.grid()) > 1 and next(iter(self.attacks.values())).norm.name == "linf":
            key, largest = "epsilon" if self.epsilon > 1 else "epsilons", format_number(max(self.grid()))
            faults.append(
                (key, f"must be at most 1, got {largest}; epsilons are in pixel units, so write 8/255 rather than 8")
            )
        raise_if_invalid(faults)


@final
@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the search is after: metrics, all better when smaller.

    Attributes:
        minimise: Metrics to minimise; of several, the first one ranks within a Pareto front: parameters, macs, clean_error,
            adversarial_error, adversarial_error@E at another epsilon E; error_area and negative_median_radius, of the
            error curve over evaluation.epsilons; first_order_error, predicted from gradients without an attack;
            failed_checks.
        constraints: Upper bounds of metrics, by name; bounds on parameters and macs are checked before any training.
            failed_checks: 0 keeps networks out whose robustness may only seem so.
    """

    minimise: tuple[str, ...] = ("adversarial_error",)
    constraints: Mapping[str, float] = field(default_factory=lambda: {"clean_error": 0.1})

    def metrics(self) -> tuple[str, ...]:
        """Returns the metrics that it names, each once."""
        return tuple(dict.fromkeys([*self.minimise, *self.constraints]))

    def __post_init__(self) -> None:
        faults = []
        if not self.minimise or len(set(self.minimise)) < len(self.minimise):
            faults.append(("minimise", "must hold at least one metric, each once"))
        for metric, bound in self.constraints.items():
            if not math.isfinite(bound):
                faults.append((f"constraints.{metric}", f"must be finite, got {bound}"))
        raise_if_invalid(faults)


@final
@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How the space is searched.

    Attributes:
        trials: Number of trials, those answered from the duplicate cache included.
        first: Architectures of the first trials: published ones by name (darts_v2, resnet18), YAML files that hold one (a
            bundle's architecture.yaml) or a list, the folder of an earlier run for its finalists, or the choices themselves.
        random_trials: The trials after those, drawn uniformly whatever the sampler: a reference, and the sampler's start.
        sampler: Proposes architectures: random, grid, tpe, nsga2, evolution, ppo or surrogate.
        executor: Runs the trials: local, in this process, or ray, on this machine's cores or a cluster.
        stopping: Early stopping by successive halving, such as {first: 0.2, reduction: 3}; null to train all to the end.
        time_limit: Seconds that a trial may take before it counts as failed; null for no limit.
        attempts: How often a trial is started again after its process was killed in it, before it counts as failed.
        checkpoint_seconds: Training is written down this often, so that a killed trial goes on from there.
        storage: URL of the database that holds the study, such as postgresql+psycopg2://USER:$PASSWORD@HOST/NAME; null for
            study.db in the run's folder.
    """

    trials: int = bounded(20, 1)
    first: tuple[InitialArchitecture, ...] = ()
    random_trials: int = bounded(8, 1)
    sampler: Sampler = TPE()
    executor: Executor = Local()
    stopping: Halving | None = None
    time_limit: float | None = bounded(None, 0.001, 1e8)
    attempts: int = bounded(3, 1)
    checkpoint_seconds: float = bounded(10.0, 0)
    storage: str | None = None

    @property
    def first_architectures(self) -> tuple[Architecture, ...]:
        """`first`, once `nas.pipeline.earlier_run` has put architectures in the place of folders."""
        assert not any(isinstance(entry, Path) for entry in self.first), (
            "folders of earlier runs are resolved before a search"
        )
        return tuple(entry for entry in self.first if not isinstance(entry, Path))

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        if not faults and self.trials < len(self.first):
            count = len(self.first)
            faults.append(("trials", f"must be at least {count}, one for each of search.first, got {self.trials}"))
        if self.storage is not None and (fault := validate_url(self.storage)) is not None:
            faults.append(("storage", fault))
        raise_if_invalid(faults)


@final
@dataclass(frozen=True, kw_only=True)
class FinalistsConfig:
    """What is done with the best candidates: retrained longer, profiled on the test split, exported.

    Attributes:
        count: Number of finalists.
        epochs: Passes over the training images.
        references: Retrain and profile two references under the same budget: the median random candidate of the search,
            and a plain residual network of about the best finalist's size.
        attacks: Attacks of the final profile, by name.
        epsilons: Grid of each norm (linf, l2) of the final profile; null to choose it from each network's first-order radii.
        images: At most this many test images.
    """

    count: int = bounded(2, 1)
    epochs: int = bounded(20, 1)
    references: bool = True
    attacks: Mapping[str, Attack] = field(
        default_factory=lambda: {
            "fgsm": FGSM(),
            "step_ll": StepLL(),
            "pgd": PGD(),
            "fmn": FMN(steps=50),
            "ddn": DDN(loss=margin, steps=50),
        }
    )
    epsilons: Mapping[str, tuple[float, ...]] | None = None
    images: int = bounded(10000, 1)

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        try:
            check_names(self.attacks)
        except ValueError as error:
            faults.append(("attacks", str(error).removeprefix("attacks ")))
        for norm, grid in (self.epsilons or {}).items():
            if norm not in ("linf", "l2"):
                faults.append(("epsilons", f"must be named by norm (linf, l2), got {norm!r}"))
            if not grid or any(not 0 < e <= (1 if norm == "linf" else 1e6) for e in grid):
                faults.append(
                    (f"epsilons.{norm}", f"must hold epsilons above 0 in pixel units (8/255, not 8), got {list(grid)}")
                )
        raise_if_invalid(faults)


@final
@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on.

    Attributes:
        seed: Seed of all that is drawn: architectures, weights, batches, attacks.
        device: cpu, cuda, mps, or auto: the best there is.
        threads: CPU threads; null for 1 where images have at most 256 pixels, for more only wait for each other there, and
            otherwise for as many as torch takes by itself. Weights are reproduced bit for bit at the same number.
        data: The images, and how they are split.
        space: The search space, by name, and its settings.
        evaluator: What answers trials: train, or table, a table of measured architectures.
        training: How every candidate is trained.
        evaluation: How a trial is scored, on the validation split.
        objective: What the search is after.
        search: How the space is searched.
        finalists: What is done with the best candidates.
    """

    seed: int = bounded(0, 0, 2**31 - 1)
    device: str = "auto"
    threads: int | None = bounded(None, 1)
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    evaluator: EvaluatorConfig = TrainEvaluatorConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    search: SearchConfig = SearchConfig()
    finalists: FinalistsConfig = FinalistsConfig()

    @property
    def norm(self) -> str:
        """Name of the norm in which the search measures epsilon."""
        return next(iter(self.evaluation.attacks.values())).norm.name

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        norm = self.norm
        if norm not in {attack.norm.name for attack in self.finalists.attacks.values()}:
            faults.append(("finalists.attacks", f"must hold an attack in {norm}, the norm of evaluation.attacks"))
        if self.training.selection.norm.name != norm:
            faults.append(
                ("training.selection", f"must be in {norm}, the norm of evaluation.attacks, for epsilon to mean one thing")
            )
        stopping = self.search.stopping
        if stopping is not None and isinstance(self.evaluator, TableEvaluatorConfig):
            faults.append(("search.stopping", "has nothing to stop where a table answers trials; set it to null"))
        elif stopping is not None and not stopping.rungs(self.training.epochs):
            faults.append(("search.stopping", f"has no rung in {self.training.epochs} epochs; lower first, or train longer"))
        for section, metrics in (("minimise", self.objective.minimise), ("constraints", tuple(self.objective.constraints))):
            for metric, message in self.evaluator.check_metrics(metrics, self.evaluation.grid()):
                faults.append((f"objective.{section}" if metric else "objective", message))
        raise_if_invalid(faults)
