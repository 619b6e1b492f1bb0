"""mlp: multi-layer perceptrons on flattened pixels, including the linear classifier.

The depth is 0 to `layers` hidden layers, and each hidden layer has a separate width. `canonical` resets the choices of
layers that are not built. There are (layers + 1) * 8**layers * 4 * 3 architectures (24,576 for three layers), with
1 + 12 * (8 + 8**2 + ... + 8**layers) canonical forms (7,009 for three layers).

Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", Nature 323, 1986. The linear
classifier is a reference: its optimal perturbation has a closed form (Goodfellow, Shlens and Szegedy, "Explaining and
Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from search_spaces.drawing.figures import draw_chain
from search_spaces.space import Architecture, Choice, SearchSpace, Value
from search_spaces.spaces.blocks import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
NORMALISATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "none": lambda width: nn.Identity(),
}


def mlp(layers: int = 3) -> SearchSpace:
    """Returns the search space of multi-layer perceptrons.

    Args:
        layers: Largest number of hidden layers, at least 1.

    Raises:
        ValueError: layers is below 1.
    """
    if layers < 1:
        raise ValueError(f"layers must be at least 1, got {layers}")
    choices = {
        "depth": Choice(*range(layers + 1)),
        **{f"width{layer}": Choice(*WIDTHS) for layer in range(1, layers + 1)},
        "activation": Choice(*ACTIVATIONS),
        "normalisation": Choice(*NORMALISATIONS),
    }

    def build(architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        act = ACTIVATIONS[str(architecture["activation"])]
        norm = NORMALISATIONS[str(architecture["normalisation"])]
        features = math.prod(input_shape)
        body: list[nn.Module] = [nn.Flatten()]
        for width in _widths(architecture):
            body += [nn.Linear(features, width, bias=architecture["normalisation"] == "none"), norm(width), act()]
            features = width
        return nn.Sequential(*body, nn.Linear(features, num_classes))

    def canonical(architecture: Architecture) -> dict[str, Value]:
        built = len(_widths(architecture))
        used = {"depth", *(f"width{layer}" for layer in range(1, built + 1))}
        used |= {"activation", "normalisation"} if built else set()
        return {name: architecture[name] if name in used else choice.values[0] for name, choice in choices.items()}

    def draw(architecture: Architecture) -> Figure:
        label = str(architecture["activation"])
        if architecture["normalisation"] != "none":
            label = f"{architecture['normalisation']}, {label}"
        return draw_chain([*(f"linear {width}, {label}" for width in _widths(architecture)), "linear"])

    return SearchSpace(name="mlp", choices=choices, build=build, canonical=canonical, draw=draw)


def _widths(architecture: Architecture) -> list[int]:
    """Returns the widths of the hidden layers that are built."""
    depth = int(str(architecture["depth"]))
    return [int(str(architecture[f"width{layer}"])) for layer in range(1, depth + 1)]
