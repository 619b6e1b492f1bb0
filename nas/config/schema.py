"""Settings of a run: frozen dataclasses that validate themselves.

The docstrings document the YAML keys: `hardcell config` prints them as comments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from evaluators.attacks import DDN, FGSM, FMN, PGD, Attack, StepLL, Strong, margin
from evaluators.norms import NORMS
from evaluators.profiles.record import check_names
from nas.config.evaluation import EvaluationConfig
from nas.config.evaluators import EvaluatorConfig, TableEvaluatorConfig, TrainEvaluatorConfig
from nas.config.storage_url import validate_url
from nas.data.config import DataConfig
from nas.executors import Executor, Local
from nas.samplers import TPE, Sampler
from nas.spaces.architectures import InitialArchitecture
from nas.spaces.config import SpaceConfig
from nas.training.config import TrainingConfig
from nas.training.early_stopping import Halving
from nas.validation import bounded, check_bounds, raise_if_invalid
from search_spaces import Architecture  # noqa: TC001 (config files are read by annotations)

# Forms of the network in a bundle. Weights are always among them.
FORMS = ("weights", "pt2", "onnx")


@final
@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Metrics to minimise and to constrain. For all metrics, smaller is better.

    Attributes:
        minimise: Metrics to minimise. With several, the first one orders the trials within a Pareto front. Available:
            parameters, macs, clean_error, adversarial_error, and adversarial_error@E for another epsilon E; error_area and
            negative_median_radius, from the error curve over evaluation.epsilons; negative_power_law_exponent and
            power_law_prefactor, from the power law of its flip rate (a trial without a law fails, with the reason);
            first_order_error, a prediction from gradients without an attack; failed_checks.
        constraints: Upper bounds of metrics, by name. Bounds on parameters and macs are checked before training. The bound
            failed_checks: 0 excludes networks whose robustness may be an artefact of the evaluation.

    Raises:
        ValueError: minimise is empty or has duplicates, or a bound is not finite.
    """

    minimise: tuple[str, ...] = ("adversarial_error",)
    constraints: Mapping[str, float] = field(default_factory=lambda: {"clean_error": 0.1})

    def metrics(self) -> tuple[str, ...]:
        """Returns the names of all metrics in use, without duplicates."""
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
        trials: Number of trials, including duplicates, which copy the result of an equivalent trial.
        first: Architectures of the first trials. Possible entries: published names (darts_v2, resnet18); YAML files with one
            architecture or a list, such as a bundle's architecture.yaml; folders of earlier runs, for their finalists;
            mappings of choices.
        random_trials: Number of uniformly random trials after `first`, for every sampler. They are the random baseline, and
            the initial data of the sampler.
        sampler: Proposes architectures: random, grid, tpe, nsga2, evolution, ppo or surrogate.
        executor: Runs the trials: local (in this process, or in several child processes) or ray (on the cores of this
            machine or on a cluster).
        stopping: Early stopping by successive halving, such as {first: 0.2, reduction: 3}; null to train every trial fully.
        time_limit: Maximum seconds per trial, including the construction of its network. A trial that takes longer fails.
            Null for no limit.
        attempts: Number of times that a trial is restarted after its process died. If the process dies once more, the trial
            counts as failed.
        checkpoint_seconds: Seconds between checkpoints of the training. A killed trial resumes from its last checkpoint.
        isolate: Run each trial in a child process under the local executor, so that a crash fails one trial only. Under Ray,
            and with several local workers, each trial runs in another process in any case.
        storage: URL of the study's database, such as postgresql+psycopg2://USER:$PASSWORD@HOST/NAME; null for study.db in
            the run's folder.

    Raises:
        ValueError: a value is out of range, trials is less than the length of first, or storage is not a valid URL.
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
    isolate: bool = False
    storage: str | None = None

    @property
    def first_architectures(self) -> tuple[Architecture, ...]:
        """The entries of `first`, after `nas.pipeline.earlier_run` has replaced folders by architectures."""
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
    """How the best candidates are retrained, profiled on the test split, and exported.

    Attributes:
        count: Number of finalists.
        epochs: Passes over the training images.
        references: Retrain and profile two reference networks with the same budget. One is the random candidate of median
            rank, the other is a plain residual network of about the size of the best finalist.
        attacks: Attacks of the final profile, by name.
        epsilons: Epsilons of the final profile for each norm (linf, l2, l1), in pixel units; null to choose them from the
            first-order radii of each network.
        images: Maximum number of test images.
        forms: Forms of the network in a bundle: weights (safetensors), pt2 (torch alone) and onnx (onnxruntime alone). Use
            [weights] for networks that cannot be exported.

    Raises:
        ValueError: a value is out of range, an attack has an invalid name, or forms is not valid.
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
            "strong": Strong(),
        }
    )
    epsilons: Mapping[str, tuple[float, ...]] | None = None
    images: int = bounded(10000, 1)
    forms: tuple[str, ...] = FORMS

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        if FORMS[0] not in self.forms or not set(self.forms) <= set(FORMS):
            faults.append(
                ("forms", f"must hold weights, and may hold {' and '.join(FORMS[1:])}, got [{', '.join(self.forms)}]")
            )
        try:
            check_names(self.attacks)
        except ValueError as error:
            faults.append(("attacks", str(error).removeprefix("attacks ")))
        for norm, grid in (self.epsilons or {}).items():
            if norm not in NORMS:
                faults.append(("epsilons", f"must be named by norm ({', '.join(NORMS)}), got {norm!r}"))
            if not grid or any(not 0 < e <= (1 if norm == "linf" else 1e6) for e in grid):
                faults.append(
                    (f"epsilons.{norm}", f"must hold epsilons above 0 in pixel units (8/255, not 8), got {list(grid)}")
                )
        raise_if_invalid(faults)


@final
@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run.

    Attributes:
        seed: Seed of all random numbers: architectures, weights, batches, attacks.
        device: cpu, cuda, mps, or auto for the fastest available device.
        threads: Number of CPU threads. Null means 1 for images of at most 256 pixels (height times width), where more
            threads do not help, and torch's default for larger images. The same number of threads reproduces the weights bit
            for bit.
        data: The images and their splits.
        space: Name and options of the search space.
        evaluator: How trials get their metrics: train (train and attack) or table (look up measured architectures).
        training: How every candidate is trained.
        evaluation: How a trial is scored, on the validation split.
        objective: Metrics to minimise and to constrain.
        search: How the space is searched.
        finalists: How the best candidates are retrained, profiled and exported.

    Raises:
        ValueError: a value is out of range, or sections contradict each other.
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
        """Name of the norm of evaluation.epsilon."""
        return self.evaluation.norm

    @property
    def epsilons_by_norm(self) -> dict[str, float]:
        """Epsilon of each norm of the search's attacks, in pixel units; that of `norm` first."""
        return {self.norm: self.evaluation.epsilon, **(self.evaluation.other_norms or {})}

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        norm = self.norm
        finalists = {attack.norm.name for attack in self.finalists.attacks.values()}
        if norm not in finalists:
            faults.append(("finalists.attacks", f"must hold an attack in {norm}, the norm of evaluation.attacks"))
        for other in self.evaluation.other_norms or {}:
            if other not in finalists:
                faults.append(("finalists.attacks", f"must hold an attack in {other}, a norm of evaluation.other_norms"))
        if self.training.selection.norm.name != norm:
            faults.append(
                (
                    "training.selection",
                    f"must be in {norm}, the norm of evaluation.attacks, because both use evaluation.epsilon",
                )
            )
        stopping = self.search.stopping
        trains = not isinstance(self.evaluator, TableEvaluatorConfig)  # A table has its own number of epochs.
        if trains and stopping is not None and not stopping.rungs(self.training.epochs):
            epochs = self.training.epochs
            faults.append(
                ("search.stopping", f"has no rung in {epochs} epochs; lower search.stopping.first or raise training.epochs")
            )
        for section, metrics in (("minimise", self.objective.minimise), ("constraints", tuple(self.objective.constraints))):
            for metric, message in self.evaluator.check_metrics(metrics, self.evaluation.grid()):
                faults.append((f"objective.{section}" if metric else "objective", message))
        raise_if_invalid(faults)
