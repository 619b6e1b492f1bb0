"""Training evaluator: builds, trains and attacks the network of a trial."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch

from evaluators import macs, parameters
from evaluators.curves.error_curves import ROUNDING
from evaluators.engine.prepared import prepare
from evaluators.radius.measure import measure
from nas.config.schema import Config
from nas.config.writer import as_data
from nas.data import Dataset
from nas.errors import RecordError, format_error
from nas.evaluation.base import Evaluator
from nas.evaluation.metrics import measured_metrics, parse_record
from nas.executors.base import Job, Precheck, TrialResult
from nas.seeds import seed_of
from nas.training.data_warnings import data_warnings
from nas.training.epoch import EpochMeasures
from nas.training.network import Normalised, build_network, probe
from nas.training.train import train
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evaluators.curves.error_curves import Floats
    from nas.config.evaluation import EvaluationConfig
    from nas.data import Split
    from nas.training.checkpoints import Checkpoint
    from nas.training.epoch import EpochResult
    from search_spaces import Architecture


# Largest number of classes that `source` names.
SHOWN_CLASSES = 12


@final
@dataclass(frozen=True)
class TrainAndAttack(Evaluator):
    """Trains and attacks candidates.

    Attributes:
        config: The settings of the run.
        space: The search space.
        data: Training and validation images, on the device of the training.
    """

    config: Config
    space: SearchSpace
    data: Dataset = field(repr=False)

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of the training and validation splits."""
        return {"train": self.data.train.hash, "validation": self.data.validation.hash}

    @property
    def source(self) -> str:
        """Text for the display: the numbers of images, in all and of each class, their device, and warnings about them."""
        train, validation = self.data.train, self.data.validation
        counts = torch.cat([train.y, validation.y]).bincount(minlength=len(self.data.classes)).tolist()
        named = [f"{name} ({count})" for name, count in zip(self.data.classes, counts, strict=True)]
        if len(named) > SHOWN_CLASSES:
            named[SHOWN_CLASSES - 1 : -1] = ["..."]
        return (
            f"{len(train.x)} training and {len(validation.x)} validation images, on {train.x.device}\n"
            f"{len(counts)} classes: {', '.join(named)}"
            + "".join(f"\nwarning: {text}" for text in data_warnings(self.data, self.config.training))
        )

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.data.train.x.device

    def build(self, architecture: Architecture, seed: int) -> Normalised:
        """Returns the untrained network of an architecture."""
        return build_network(self.space, architecture, self.data.train.x, len(self.data.classes), seed_of(seed, "weights"))

    def precheck(self, job: Job) -> Precheck:
        """Returns the properties of a candidate that need no training.

        Raises:
            Exception: any error of the network's construction or its forward pass.
        """
        network = self.build(job.architecture, job.seed)
        metrics = {"parameters": float(parameters(network)), "macs": float(macs(network, self.data.input_shape))}
        constant, response = probe(network, self.data.train.x[:4])
        return Precheck(metrics, constant, response)

    def measure(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs of the training and returns the metrics.

        Raises:
            Exception: any error of the candidate.
        """
        stopping = self.config.search.stopping
        network = self.build(job.architecture, job.seed)
        yield from train(
            network,
            self.data,
            self.config.training,
            epsilon=self.config.evaluation.epsilon,
            epochs=self.config.training.epochs,
            seed=job.seed,
            measures=EpochMeasures(stopping.rungs(self.config.training.epochs)) if stopping is not None else None,
            checkpoint=checkpoint,
        )
        radii, fooled = validation_radii(network, self.data.validation, self.config.evaluation, job.seed)
        names = self.config.objective.metrics()
        metrics = measured_metrics(names, radii, fooled, network, self.data.validation, self.config.evaluation)
        epsilon = self.config.evaluation.epsilon
        return TrialResult(
            metrics=metrics | self._recorded(network),
            radii={
                "images": len(radii),
                "misclassified": int((radii == 0).sum()),
                "fooled": int(((radii > 0) & fooled).sum()),
                "epsilon": epsilon,
            },
        )

    def _recorded(self, network: Normalised) -> dict[str, float]:
        """Returns the numbers of the custom function `evaluation.record`; {} if there is none.

        Raises:
            RecordError: the function raises an error.
            ValueError: the function does not return finite numbers by name.
        """
        record = self.config.evaluation.record
        if record is None:
            return {}
        try:
            returned = record(network, self.data, self.config)
        except (torch.OutOfMemoryError, MemoryError):  # `reason_of` reports these as out of memory.
            raise
        except (Exception, SystemExit) as error:
            raise RecordError(f"evaluation.record, {as_data(record)}: {format_error(error)}") from error
        return parse_record(returned)


def validation_radii(
    network: Normalised, validation: Split, config: EvaluationConfig, seed: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns the radius of each image in the norm of epsilon, (N,), and whether it counts as an error, (N,) bool.

    The radius is the smallest one over the search's attacks of that norm: 0, an epsilon of the grid, or infinity. An image
    counts as an error if it is misclassified, or if an attack of any norm fools it within the epsilon of its norm. Each
    attack runs only on images whose radius it can still reduce. The attacks of other norms run only on images that are left.
    """
    attempts = len(config.grid()) * len(config.attacks)
    with prepare(network, validation.x, validation.y, attempts=attempts) as prepared:
        radii: Tensor | None = None
        for name, attack in config.attacks_in(config.norm).items():
            radii = measure(prepared, attack, config.grid(), seed=seed_of(seed, name), known=radii)
        assert radii is not None  # The config holds at least one attack in the norm of epsilon.
        fooled = radii <= config.epsilon * ROUNDING
        for norm, epsilon in (config.other_norms or {}).items():
            for name, attack in config.attacks_in(norm).items():
                # An image with a known radius of 0 is not attacked.
                known = torch.where(fooled, 0.0, math.inf).double()
                fooled = measure(prepared, attack, [epsilon], seed=seed_of(seed, name), known=known).isfinite()
    return radii.numpy(), fooled.numpy()
