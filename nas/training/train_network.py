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
from evaluators.engine.input_checks import check_epsilons, check_images, check_labels, check_logits, check_module
from evaluators.norms import Linf
from nas.data import Dataset, open_data, split_at_random
from nas.data.config import DataConfig
from nas.seeds import seed_of
from nas.training.config import TrainingConfig
from nas.training.data_warnings import data_warnings
from nas.training.epoch import EpochResult
from nas.training.recipes import RECIPES, Recipe
from nas.training.recipes.base import BallRecipe
from nas.training.train import train

if TYPE_CHECKING:
    from evaluators.norms import Norm

OnEpoch = Callable[[EpochResult], object]
# Radius of the ball if neither the caller nor the recipe gives one, in pixel units.
EPSILON = 8 / 255


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
    data: Dataset | DataConfig | str | tuple[Tensor, Tensor],
    recipe: Recipe | str = "n_fgsm",
    epochs: int = 10,
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
        data: Name of a source such as digits or cifar10, its settings, a data set, or images (N, C, H, W) and labels (N,),
            of which a fifth is held out at random.
        recipe: A recipe, or its name for the default settings.
        epochs: Passes over the training images.
        epsilon: Radius of the attack that measures the error, and of a recipe given by name, in pixel units. By default the
            radius of the recipe, or 8/255.
        config: Batch size, optimiser, schedule and other settings. Its recipe and epochs are not used.
        seed: Seed of the batches, the augmentation, the attacks and the held-out images.
        on_epoch: Called with the result of each epoch.

    Raises:
        HardcellError: the images of a source cannot be used.
        TypeError: network, data or recipe has the wrong type.
        ValueError: images, labels or a setting is out of range, or the network does not return (N, K) logits.
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
    check_module(network)
    chosen, norm = _open_recipe(recipe, epsilon)
    radius = epsilon if epsilon is not None else chosen.epsilon if isinstance(chosen, BallRecipe) else EPSILON
    base = config or TrainingConfig()
    selection = base.selection if base.selection.norm.name == norm.name else replace(base.selection, norm=norm)  # type: ignore[type-var]
    settings = replace(base, recipe=chosen, epochs=epochs, selection=selection)
    dataset = _open_dataset(data, seed).to(_device(network))
    _check(network, dataset, radius, norm)
    for message in data_warnings(dataset, settings.batch_size):
        warnings.warn(message, stacklevel=2)
    _use_channels_last(network, dataset.train.x)
    history = []
    for epoch in train(network, dataset, settings, epsilon=radius, epochs=epochs, seed=seed):
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
    return Trained(network, tuple(history))


def _open_recipe(recipe: Recipe | str, epsilon: float | None) -> tuple[Recipe, Norm]:
    """Returns a recipe and the norm of its ball."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, or a Recipe, got {recipe!r}")
        kind = RECIPES[recipe]
        recipe = kind(epsilon=epsilon if epsilon is not None else EPSILON) if issubclass(kind, BallRecipe) else kind()
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a name or a Recipe, got {type(recipe).__name__}")
    return recipe, recipe.norm if isinstance(recipe, BallRecipe) else Linf()


def _open_dataset(data: Dataset | DataConfig | str | tuple[Tensor, Tensor], seed: int) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        data = DataConfig(name=data)
    if isinstance(data, DataConfig):
        return open_data(data)
    if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)):
        raise TypeError(
            "data must be the name of a source, a DataConfig, a Dataset, or a pair of tensors (images, labels), "
            f"got {type(data).__name__}"
        )
    x, y = data
    check_images(x)
    check_labels(y, len(x))
    return split_at_random(x, y, 0.2, seed_of(seed, "split"))


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _check(network: nn.Module, data: Dataset, epsilon: float, norm: Norm) -> None:
    check_epsilons([epsilon], norm.largest(data.train.x[0].numel()))
    with frozen(network), torch.no_grad():
        logits = network(data.train.x[:2].clone())
    check_logits(logits, min(2, len(data.train.x)))
    for split in (data.train, data.validation):
        check_labels(split.y, len(split.x), logits.shape[1])


def _use_channels_last(network: nn.Module, x: Tensor) -> None:
    """Converts the weights of convolutions to the channels-last format, which is faster, if the network allows it."""
    if x.ndim != 4 or not suits_channels_last(network):
        return
    with frozen(network):
        # A network may reshape its features in a way that works in one format only.
        converted = copy.deepcopy(network).to(memory_format=torch.channels_last)
        if agree(network, converted, x[:PROBES].contiguous(memory_format=torch.channels_last)):
            network.to(memory_format=torch.channels_last)
