"""Training of one network without a search."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from evaluators.engine.channels_last import suits_channels_last
from evaluators.engine.folding import PROBES, agree
from evaluators.engine.frozen import frozen
from nas.training.arguments import as_int, check_fit, check_trainable, open_dataset, open_settings
from nas.training.batches import images_in_batch
from nas.training.data_warnings import data_warnings
from nas.training.epoch import EpochResult
from nas.training.precision import faster_precision
from nas.training.train import train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.data import Dataset
    from nas.data.config import DataConfig
    from nas.training.config import TrainingConfig
    from nas.training.recipes import Recipe

OnEpoch = Callable[[EpochResult], object]


@final
@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: The network with the weights of the best epoch, in evaluation mode.
        history: Results of the epochs.
    """

    network: nn.Module
    history: tuple[EpochResult, ...]


def train_network(
    network: nn.Module,
    data: Dataset | DataConfig | str | Sequence[Tensor],
    recipe: Recipe | str | None = None,
    epochs: int | None = None,
    *,
    epsilon: float | None = None,
    config: TrainingConfig | None = None,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Trains a network and returns it with its history. The network keeps the weights of the epoch with the smallest error.

    The network is trained in place, on its device. The error of an epoch is its adversarial error on held-out images.

    Args:
        network: Network from images (N, C, H, W) with pixels in [0, 1] to logits (N, K). Normalisation belongs inside; see
            `nas.training.network.Normalised`.
        data: Name of a source such as digits or cifar10, its settings, a data set, or a pair of images (N, C, H, W) and
            labels (N,), of which a fifth is held out at random. Without augmentation, images may have any shape (N, ...).
        recipe: A recipe, or its name for the default settings. By default the recipe of the config; without a config,
            n_fgsm.
        epochs: Passes over the training images. By default as in the config; without a config, 10.
        epsilon: Radius of the attack that measures the error, in pixel units. It is also the radius of the recipe, unless
            `recipe` is a Recipe, which keeps its own. By default the radius of the recipe; 8/255 for a recipe that has no
            radius, is given by name, or is the default without a config. The recipe of `TrainingConfig()` has the radius
            0.12.
        config: Recipe, epochs, batch size, optimiser, schedule and other settings. The precision auto is the faster one in a
            step of this network, which is measured.
        seed: Seed of the batches, the augmentation, the attacks and the held-out images.
        on_epoch: Called with the result of each epoch.

    Raises:
        HardcellError: the images of a source cannot be used, or the network fails on the images.
        TypeError: an argument has the wrong type, or network is a TorchScript module or a graph of torch.export.
        ValueError: images, labels or a setting is out of range, the network has another dtype than the images, has a lazy
            layer that is not initialised, or does not return (N, K) logits, or the selection attack of the config cannot
            have the norm of the recipe.
        DivergedError: the loss or a weight is not finite.
        NoGradientError: the loss has no gradient for any weight.

    Example:
        >>> import nas
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> trained = nas.train(network, "digits", recipe="standard", epochs=2)
        >>> [epoch.epoch for epoch in trained.history]
        [1, 2]
    """
    check_trainable(network)
    if on_epoch is not None and not callable(on_epoch):
        raise TypeError(f"on_epoch must be a function of an EpochResult, got {on_epoch!r}")
    settings, radius = open_settings(config, recipe, epochs, epsilon)
    seed = as_int("seed", seed, 0)
    dataset = open_dataset(data, seed).to(_device(network))
    check_fit(network, dataset, settings, radius)
    for message in data_warnings(dataset, settings):
        warnings.warn(message, stacklevel=2)
    _use_channels_last(network, dataset.train.x)
    if settings.precision == "auto":
        batch = images_in_batch(settings.batch_size, len(dataset.train.x))
        settings = replace(settings, precision=faster_precision(network, dataset.train.x[:batch]))
    history = []
    for epoch in train(network, dataset, settings, epsilon=radius, epochs=settings.epochs, seed=seed):
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
    return Trained(network, tuple(history))


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _use_channels_last(network: nn.Module, x: Tensor) -> None:
    """Converts the weights of convolutions to the channels-last format, which is faster, if the network allows it."""
    if x.ndim != 4 or not suits_channels_last(network):
        return
    with frozen(network):
        try:
            converted = copy.deepcopy(network).to(memory_format=torch.channels_last)
        except Exception:  # Such as a network with a lock.
            return
        # A network may reshape its features in a way that works in one format only.
        if agree(network, converted, x[:PROBES].contiguous(memory_format=torch.channels_last)):
            network.to(memory_format=torch.channels_last)
