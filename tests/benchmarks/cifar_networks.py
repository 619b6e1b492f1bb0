"""Four small residual networks on CIFAR-10, for the benchmark of attacks.

| name | network |
| --- | --- |
| normal | trained without attacks |
| adversarial | trained with the recipe `adversarial` |
| kwta | like `adversarial`, with k-winners-take-all activations instead of ReLU |
| shattered | the network `adversarial`, with a wave added to each pixel value that misleads gradients |

The images are in the file cifar10-jpeg.tar.xz of ../shared/data, or of the folder in the environment variable HARDCELL_DATA.
Training takes some minutes on two cores. It runs once, because the weights and the images are stored in a folder.
"""

from __future__ import annotations

import io
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from nas.data import Dataset, Split
from nas.training.config import TrainingConfig
from nas.training.network import build_network
from nas.training.recipes import Adversarial, Standard
from nas.training.train import train
from search_spaces.spaces.macro import PLAIN_AXES, macro

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hardcell" / "benchmarks"
TRAINING_IMAGES = 12_000
TEST_IMAGES = 1_000
ARCHITECTURE = {"depth1": 1, "width1": 16, "depth2": 1, "width2": 32, "depth3": 1, "width3": 64, **PLAIN_AXES}
EPOCHS = 10
RECIPES = {"normal": Standard(), "adversarial": Adversarial(epsilon=8 / 255), "kwta": Adversarial(epsilon=8 / 255)}
NETWORKS = (*RECIPES, "shattered")


class WinnersTakeAll(nn.Module):
    """Keeps the largest fifth of an image's activations (N, ...) and sets the others to 0.

    The function is not continuous, so that gradients say little about larger steps.

    Source: Xiao, Zhong and Zheng, "Enhancing Adversarial Defense by k-Winners-Take-All", ICLR 2020, arXiv:1905.10510.
    """

    def forward(self, x):
        """Returns the activations, shaped like x."""
        flat = x.flatten(1)
        smallest = flat.topk(max(flat.shape[1] // 5, 1)).values[:, -1:]
        return torch.where(flat >= smallest, flat, 0).view_as(x)


class Wave(nn.Module):
    """Adds a wave of period 8/255 and of height 1.9/255 to each pixel value.

    The slope of the sum is between -0.5 and 2.5. Where it is negative, the gradient has the wrong sign.
    """

    def forward(self, x):
        """Returns the images, shaped like x."""
        frequency = 2 * math.pi * 255 / 8
        return x + 1.5 * torch.sin(frequency * x) / frequency


def images(archive: Path, cache: Path = CACHE) -> tuple[Split, Split]:
    """Returns training and test images, with equally many images of each class."""
    stored = cache / "cifar10.npz"
    if not stored.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(stored, **read(archive, {"train": TRAINING_IMAGES // 10, "test": TEST_IMAGES // 10}))
    arrays = np.load(stored)
    training, test = (
        Split(torch.from_numpy(arrays[f"{part}_x"]).float() / 255, torch.from_numpy(arrays[f"{part}_y"]), part)
        for part in ("train", "test")
    )
    return training, test


def read(archive: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns the first images of each class in random order, as arrays `train_x`, `train_y`, `test_x` and `test_y`.

    Args:
        archive: The archive.
        counts: Number of images of each class, by part (train, test).
    """
    images_by_class: dict[str, dict[str, list[np.ndarray]]] = {part: {} for part in counts}
    with tarfile.open(archive, "r|xz") as members:
        for member in members:
            if not member.isfile():
                continue
            part, name = member.name.split("/")[:2]
            of_class = images_by_class[part].setdefault(name, [])
            if len(of_class) < counts[part]:
                of_class.append(np.asarray(Image.open(io.BytesIO(members.extractfile(member).read())).convert("RGB")))
    arrays = {}
    for part, by_class in images_by_class.items():
        x = np.concatenate([np.stack(by_class[name]) for name in sorted(by_class)])
        y = np.repeat(np.arange(len(by_class)), counts[part])
        order = np.random.default_rng(0).permutation(len(x))
        arrays |= {f"{part}_x": x[order].transpose(0, 3, 1, 2), f"{part}_y": y[order]}
    return arrays


def network(kind: str, archive: Path, cache: Path = CACHE) -> torch.nn.Module:
    """Returns one of NETWORKS in evaluation mode. A trained network is read from the cache if it was trained before."""
    if kind == "shattered":
        return nn.Sequential(Wave(), network("adversarial", archive, cache)).eval()
    training, test = images(archive, cache)
    built = build_network(macro(), ARCHITECTURE, training.x, 10, seed=0)
    if kind == "kwta":
        _replace_relu(built)
    stored = cache / f"{kind}.pt"
    if stored.exists():
        built.load_state_dict(torch.load(stored, weights_only=True))
        return built.eval()
    config = TrainingConfig(
        recipe=RECIPES[kind],
        batch_size=128,
        shift=2,
        flip=True,
        epochs=EPOCHS,
        precision="bfloat16",
        selection_from=0.9,
    )
    built = built.to(memory_format=torch.channels_last)
    validation = Split(test.x[-200:], test.y[-200:], "validation")
    data = Dataset("cifar10", tuple(map(str, range(10))), training, validation)
    for epoch in train(built, data, config, epsilon=2 / 255, epochs=EPOCHS, seed=0):
        print(f"{kind}: epoch {epoch.epoch} of {EPOCHS}, loss {epoch.loss:.3f}, {epoch.seconds:.0f} s", flush=True)
    built = built.to(memory_format=torch.contiguous_format)
    torch.save(built.state_dict(), stored)
    return built.eval()


def _replace_relu(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, WinnersTakeAll())
        else:
            _replace_relu(child)


if __name__ == "__main__":
    shared = Path(os.environ.get("HARDCELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    torch.set_num_threads(1)  # A second thread gains little, and is slow if another process is busy.
    for name in RECIPES:
        network(name, shared / "cifar10-jpeg.tar.xz")
