"""One trial: an architecture built, trained, and scored on the validation split."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch

from evaluators import macs, parameters
from evaluators.engine.prepared import prepare
from evaluators.radius import measure
from nas.config.schema import Config
from nas.config.writer import as_data
from nas.data import Dataset
from nas.errors import RecordError, TimeLimitError, first_line, format_error
from nas.evaluation.base import Evaluator, Precheck
from nas.evaluation.metrics import measured_metrics, parse_record
from nas.executors.base import Job, TrialResult
from nas.seeds import seed_of
from nas.training.checkpoints import Checkpoint, CheckpointError
from nas.training.network import Normalised, build_network
from nas.training.train import DivergedError, has_input_gradient, train
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from evaluators.curves.error_curves import Floats
    from nas.config.schema import EvaluationConfig
    from nas.data import Split
    from nas.training.epoch import EpochResult
    from search_spaces import Architecture


@final
@dataclass(frozen=True)
class TrainAndAttack(Evaluator):
    """Evaluates candidates by training them and attacking them.

    Attributes:
        config: The run's settings.
        space: The search space.
        data: The run's images, on the device on which to train.
    """

    config: Config
    space: SearchSpace
    data: Dataset = field(repr=False)

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes of the splits that are seen."""
        return {"train": self.data.train.hash, "validation": self.data.validation.hash}

    @property
    def source(self) -> str:
        """What answers the trials, in words."""
        train, validation = len(self.data.train.x), len(self.data.validation.x)
        return f"{train} training and {validation} validation images, on {self.data.train.x.device}"

    @property
    def device(self) -> torch.device:
        """The device on which the images are."""
        return self.data.train.x.device

    def build(self, architecture: Architecture, seed: int) -> Normalised:
        """Returns the untrained network of an architecture."""
        return build_network(self.space, architecture, self.data.train.x, len(self.data.classes), seed_of(seed, "weights"))

    def precheck(self, job: Job) -> Precheck:
        """Returns what is known of a candidate without training it.

        Raises:
            Exception: whatever building the network, or one pass through it, raises.
        """
        network = self.build(job.architecture, job.seed)
        metrics = {"parameters": float(parameters(network)), "macs": float(macs(network, self.data.input_shape))}
        return Precheck(metrics, constant=not has_input_gradient(network, self.data.train.x[:4]))

    def __call__(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs of the training and returns the outcome; a candidate that fails is an outcome, too.

        Raises:
            CheckpointError: the training cannot be written down.
        """
        started = time.perf_counter()
        epochs: list[EpochResult] = []
        stopping = self.config.search.stopping
        try:
            network = self.build(job.architecture, job.seed)
            for epoch in train(
                network,
                self.data,
                self.config.training,
                epsilon=self.config.evaluation.epsilon,
                epochs=self.config.training.epochs,
                seed=job.seed,
                rungs=stopping.rungs(self.config.training.epochs) if stopping is not None else None,
                checkpoint=checkpoint,
            ):
                epochs.append(epoch)
                yield epoch
            radii = validation_radii(network, self.data.validation, self.config.evaluation, job.seed)
            names = self.config.objective.metrics()
            metrics = measured_metrics(names, radii, network, self.data.validation, self.config.evaluation)
            metrics |= self._recorded(network)
        except CheckpointError:
            raise
        except Exception as error:  # Whatever a candidate raises is that candidate's result: the search goes on.
            return TrialResult(
                reason=reason_of(error),
                seconds=time.perf_counter() - started,
                epochs=tuple(epochs),
            )
        epsilon = self.config.evaluation.epsilon
        return TrialResult(
            metrics=metrics,
            seconds=time.perf_counter() - started,
            epochs=tuple(epochs),
            radii={
                "images": len(radii),
                "misclassified": int((radii == 0).sum()),
                "fooled": int(((radii > 0) & (radii <= epsilon)).sum()),
                "epsilon": epsilon,
            },
        )

    def _recorded(self, network: Normalised) -> dict[str, float]:
        """Returns what the user's own function notes of a trained network; nothing where there is none.

        Raises:
            RecordError: it raised an error.
            ValueError: it did not return finite numbers by name.
        """
        record = self.config.evaluation.record
        if record is None:
            return {}
        try:
            returned = record(network, self.data, self.config)
        except (torch.OutOfMemoryError, MemoryError, TimeLimitError):  # Reasons of their own, wherever they come from.
            raise
        except Exception as error:
            raise RecordError(f"evaluation.record, {as_data(record)}: {format_error(error)}") from error
        return parse_record(returned)


def validation_radii(network: Normalised, validation: Split, config: EvaluationConfig, seed: int) -> Floats:
    """Returns the worst case over the attacks of the search, (N,): 0, an epsilon of the grid, or infinity.

    Each attack sees only the images whose radius those before it left larger than it could find.
    """
    attempts = len(config.grid()) * len(config.attacks)
    with prepare(network, validation.x, validation.y, attempts=attempts) as prepared:
        radii: Tensor | None = None
        for name, attack in config.attacks.items():
            radii = measure(prepared, attack, config.grid(), seed=seed_of(seed, name), known=radii)
    assert radii is not None  # The config holds at least one attack.
    return radii.numpy()


def reason_of(error: Exception) -> str:
    """Returns why a candidate failed, on one line."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error):
        return f"out of memory: {first_line(error)}"
    if isinstance(error, DivergedError | RecordError | TimeLimitError):
        return first_line(error)
    return format_error(error)
