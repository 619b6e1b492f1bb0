"""Checks and conversions of the arguments of `nas.train`."""

from __future__ import annotations

import inspect
import operator
import os
from dataclasses import replace
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import (
    check_epsilons,
    check_format,
    check_images,
    check_labels,
    check_logits,
    check_module,
)
from evaluators.norms import Linf
from nas.data import Dataset, open_data, split_at_random
from nas.data.config import DataConfig
from nas.errors import NetworkError, first_line
from nas.seeds import seed_of
from nas.training.config import TrainingConfig
from nas.training.recipes import NFGSM, RECIPES, Recipe
from nas.training.recipes.base import BallRecipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.attacks import Attack
    from evaluators.norms import Norm

# Radius of the ball if neither the caller nor the recipe gives one, in pixel units.
EPSILON = 8 / 255


def check_trainable(network: nn.Module) -> None:
    """Checks that a network is an nn.Module with a training mode, and not compiled.

    In a copy of a TorchScript module, the parameters cannot be trained. A graph of torch.export has no training mode.

    Raises:
        TypeError: network is not an nn.Module, or is or contains a TorchScript module or a graph of torch.export.
        ValueError: gradients are disabled, or the network has a lazy layer that is not initialised.
    """
    if not torch.is_grad_enabled():
        raise ValueError("training needs gradients; call it outside of torch.no_grad() and torch.inference_mode()")
    if isinstance(network, ExportedProgram):
        raise _not_trainable("an ExportedProgram")
    check_module(network)
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise _not_trainable("a TorchScript module")
    try:
        with frozen(network):
            network.train()
    except NotImplementedError:
        raise _not_trainable("a graph of torch.export") from None


def _not_trainable(form: str) -> TypeError:
    return TypeError(f"network must be a trainable nn.Module, got {form}; pass the network from which it was made")


def as_int(name: str, value: SupportsIndex, low: int) -> int:
    """Returns a whole number, such as an int or a numpy integer, as an int.

    Raises:
        TypeError: value is not a whole number, or is a bool.
        ValueError: value is below `low`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if number < low:
        raise ValueError(f"{name} must be at least {low}, got {number}")
    return number


def open_settings(
    config: TrainingConfig | None, recipe: Recipe | str | None, epochs: int | None, epsilon: float | None
) -> tuple[TrainingConfig, float]:
    """Returns the settings of a training, and the radius of the attack that measures the error.

    Args:
        config: Settings; None for the defaults, with the radius `EPSILON`.
        recipe: Recipe or its name in place of that of the config, or None.
        epochs: Epochs in place of those of the config, or None.
        epsilon: Radius of the attack that measures the error, and of the recipe unless `recipe` is a Recipe. None for the
            radius of the recipe.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or the selection attack cannot have the norm of the recipe.
    """
    check_config(config)
    base = config or TrainingConfig(recipe=NFGSM(epsilon=EPSILON))
    epsilon = None if epsilon is None else as_radius(epsilon)
    chosen = _open_recipe(base.recipe if recipe is None else recipe, epsilon)
    if recipe is None and epsilon is not None and isinstance(chosen, BallRecipe):
        chosen = replace(chosen, epsilon=epsilon)
    radius = epsilon if epsilon is not None else chosen.epsilon if isinstance(chosen, BallRecipe) else EPSILON
    settings = replace(
        base,
        recipe=chosen,
        epochs=as_int("epochs", base.epochs if epochs is None else epochs, 1),
        selection=_selection_with_norm(base.selection, _norm(chosen)),
    )
    return settings, radius


def check_config(config: TrainingConfig | None) -> None:
    """Checks that a config is a TrainingConfig or None.

    Raises:
        TypeError: it is not.
    """
    if config is None or isinstance(config, TrainingConfig):
        return
    got, remedy = type(config).__name__, "write TrainingConfig(batch_size=128), for example"
    if isinstance(config, type):
        got, remedy = f"the class {config.__name__}", f"write {config.__name__}()"
    elif isinstance(config, str | os.PathLike):
        remedy = "for a file, use nas.load_config(path).training"
    elif hasattr(config, "training"):
        remedy = "use its attribute training"
    raise TypeError(f"config must be a TrainingConfig, got {got}; {remedy}")


def as_radius(epsilon: float) -> float:
    """Returns epsilon, a number such as a float or a numpy number, as a float.

    Raises:
        TypeError: epsilon is not a number.
    """
    try:
        radius = None if isinstance(epsilon, bool | str | bytes) else float(epsilon)
    except (TypeError, ValueError, RuntimeError):  # Lists, arrays and tensors of several numbers.
        radius = None
    if radius is None:
        remedy = "; write it without quotes" if isinstance(epsilon, str) else ""
        raise TypeError(f"epsilon must be a number, got {epsilon!r}{remedy}")
    return radius


def _open_recipe(recipe: Recipe | str, epsilon: float | None) -> Recipe:
    """Returns a recipe. Only a recipe given by name gets the radius epsilon, or `EPSILON` if that is None."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, or a Recipe, got {recipe!r}")
        kind = RECIPES[recipe]
        recipe = kind(epsilon=epsilon if epsilon is not None else EPSILON) if issubclass(kind, BallRecipe) else kind()
    if isinstance(recipe, type):
        example = recipe.__name__ if issubclass(recipe, Recipe) and not inspect.isabstract(recipe) else "NFGSM"
        raise TypeError(f"recipe must be a name or a Recipe, got a class; create an instance, such as {example}()")
    if not isinstance(recipe, Recipe):
        remedy = "; pass it as config=" if isinstance(recipe, TrainingConfig) else ""
        raise TypeError(f"recipe must be a name or a Recipe, got {type(recipe).__name__}{remedy}")
    return recipe


def _norm(recipe: Recipe) -> Norm:
    """Returns the norm of a recipe's ball."""
    return recipe.norm if isinstance(recipe, BallRecipe) else Linf()


def _selection_with_norm(selection: Attack, norm: Norm) -> Attack:
    """Returns the selection attack with the norm of the recipe.

    Raises:
        ValueError: the attack has another norm, which cannot be replaced.
    """
    if selection.norm.name == norm.name:
        return selection
    try:
        return replace(selection, norm=norm)  # type: ignore[type-var]
    except (TypeError, ValueError) as error:  # No dataclass, no field of this name, or a norm that the attack refuses.
        raise ValueError(
            f"config.selection must have the norm of the recipe, {norm.name}, got {type(selection).__name__} with the norm "
            f"{selection.norm.name}, which cannot be replaced; use another attack, such as PGD(norm={type(norm).__name__}())"
        ) from error


def open_dataset(data: Dataset | DataConfig | str | Sequence[Tensor], seed: int) -> Dataset:
    """Returns training and validation images, on the CPU unless data is a Dataset.

    Args:
        data: As for `nas.train`.
        seed: Seed of the held-out images, if data is a pair of tensors.

    Raises:
        HardcellError: the images of a source cannot be used, or are too few.
        TypeError: data has the wrong type.
        ValueError: images, labels or a setting is out of range.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        data = DataConfig(name=data)
    if isinstance(data, DataConfig):
        return open_data(data)
    parts = list(data) if isinstance(data, tuple | list) else []
    if len(parts) != 2 or not all(isinstance(part, Tensor | np.ndarray) for part in parts):
        got = f"({', '.join(type(part).__name__ for part in parts)})" if len(parts) == 2 else type(data).__name__
        raise TypeError(
            "data must be the name of a source, a DataConfig, a Dataset of nas.data, or a pair of tensors (images, labels), "
            f"got {got}{_data_remedy(parts[0] if len(parts) == 2 else data)}"
        )
    x, y = parts
    check_images(x)
    check_labels(y, len(x))
    return split_at_random(x.float(), y, 0.2, seed_of(seed, "split"))


def _data_remedy(data: object) -> str:
    if isinstance(data, DataLoader):
        return "; pass all of its images: next(iter(DataLoader(loader.dataset, batch_size=len(loader.dataset))))"
    if isinstance(data, TorchDataset):
        return "; pass all of its images: next(iter(torch.utils.data.DataLoader(dataset, batch_size=len(dataset))))"
    if isinstance(data, os.PathLike):
        return "; for files, use nas.DataConfig(name='folder', path=...), or the name 'npz'"
    return ""


def check_fit(network: nn.Module, data: Dataset, settings: TrainingConfig, epsilon: float) -> None:
    """Checks that a network, its images and the settings fit together.

    Raises:
        NetworkError: the network fails on the images.
        TypeError: the network does not return a floating-point tensor.
        ValueError: epsilon or a label is out of range, the augmentation needs images (N, C, H, W), the network has another
            dtype than the images, or does not return (N, K) finite logits.
    """
    x = data.train.x
    check_epsilons([epsilon], _norm(settings.recipe).largest(x[0].numel()))
    augmentation = [name for name in ("shift", "flip", "cutout") if getattr(settings, name)]
    if x.ndim != 4 and augmentation:
        raise ValueError(
            f"images must have shape (N, C, H, W) for the augmentation of the config ({', '.join(augmentation)}), "
            f"got {tuple(x.shape)}; reshape the images, or train without augmentation"
        )
    logits = _first_logits(network, x)
    check_logits(logits, min(2, len(x)))
    for split in (data.train, data.validation):
        check_labels(split.y, len(split.x), logits.shape[1])


def _first_logits(network: nn.Module, x: Tensor) -> Tensor:
    """Returns the logits of the first two images.

    Raises:
        NetworkError: the network fails on them.
        ValueError: the network fails, and none of its parameters has the dtype of the images.
    """
    try:
        with frozen(network), torch.no_grad():
            logits: Tensor = network(x[:2].clone())  # A first layer may work in place.
    except Exception as error:  # The type of the error depends on the network's layers.
        check_format(network, x, convertible=False)
        shape = ", ".join(map(str, x.shape[1:]))
        raise NetworkError(f"the network cannot take the images, of shape (N, {shape}): {first_line(error)}") from error
    return logits
