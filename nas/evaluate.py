"""One trial: an architecture built, trained, and scored on the validation split."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evaluators import macs, parameters, radii
from nas.config import Config
from nas.data import Dataset
from nas.executors.base import EpochResult, Job, Outcome
from nas.seeds import seed_of
from nas.training.network import Normalised, build_network
from nas.training.train import DivergedError, has_input_gradient, train
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Generator

    from evaluators.curve import Floats
    from nas.config import EvaluationConfig
    from nas.data import Split
    from search_spaces import Architecture


@final
@dataclass(frozen=True)
class Precheck:
    """What is known of a candidate before any training.

    Attributes:
        metrics: Its parameters and macs.
        constant: Its logits do not depend on the image.
    """

    metrics: dict[str, float]
    constant: bool


@final
@dataclass(frozen=True)
class TrainAndAttack:
    """Evaluates candidates by training them and attacking them.

    Attributes:
        config: The run's settings.
        space: The search space.
        data: The run's images, on the device on which to train.
    """

    config: Config
    space: SearchSpace
    data: Dataset = field(repr=False)

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

    def __call__(self, job: Job) -> Generator[EpochResult, None, Outcome]:
        """Yields the epochs of the training and returns the outcome; a candidate that fails is an outcome, too."""
        started = time.perf_counter()
        epochs: list[EpochResult] = []
        try:
            network = self.build(job.architecture, job.seed)
            validation = self.data.validation
            for epoch in train(
                network,
                self.data.train,
                validation,
                self.config.training,
                epsilon=self.config.evaluation.epsilon,
                epochs=self.config.training.epochs,
                seed=job.seed,
            ):
                epochs.append(epoch)
                yield epoch
            found = validation_radii(network, validation, self.config.evaluation, job.seed)
        except Exception as error:  # Whatever a candidate raises is that candidate's result: the search goes on.
            return Outcome(
                reason=reason_of(error),
                seconds=time.perf_counter() - started,
                worker=platform.node(),
                epochs=tuple(epochs),
            )
        epsilon = self.config.evaluation.epsilon
        return Outcome(
            metrics={
                "clean_error": float((found == 0).mean()),
                "adversarial_error": float((found <= epsilon).mean()),
            },
            seconds=time.perf_counter() - started,
            worker=platform.node(),
            epochs=tuple(epochs),
            radii={
                "images": len(found),
                "misclassified": int((found == 0).sum()),
                "fooled": int((found == epsilon).sum()),
                "epsilon": epsilon,
            },
        )


def validation_radii(network: Normalised, validation: Split, config: EvaluationConfig, seed: int) -> Floats:
    """Returns the worst case over the attacks of the search, (N,): 0, epsilon, or infinity.

    Each attack sees only the images that those before it did not fool.
    """
    found = np.full(len(validation.x), math.inf)
    for name, attack in config.attacks.items():
        left = np.flatnonzero(np.isinf(found))
        if len(left) == 0:
            break
        index = torch.from_numpy(left).to(validation.x.device)
        found[left] = radii(
            network, validation.x[index], validation.y[index], attack, [config.epsilon], seed=seed_of(seed, name)
        ).numpy()
    return found


def reason_of(error: Exception) -> str:
    """Returns why a candidate failed, on one line."""
    line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error):
        return f"out of memory: {line}"
    if isinstance(error, DivergedError):
        return line
    return f"{type(error).__name__}: {line}"
