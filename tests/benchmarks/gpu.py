"""Training on a GPU: seconds to a robust and to an accurate ResNet-18 on CIFAR-10, and candidates per hour.

    python tests/benchmarks/gpu.py [--data PATH] [--toy] [--parts robust accurate candidates]

- robust: `nas.train` with the default recipe at 8/255. Goal: an error of at most 0.55 under PGD-20 in less than 60 s.
- accurate: `nas.train` with the recipe standard. Goal: a clean error of at most 0.06 in less than 10 s.
- candidates: trials of random cells of cell201 with 16 channels and 5 cells a stage, with the default recipe.

The data are CIFAR-10 in the folder --data; by default the archive in ../shared/data or
in the folder that HARDCELL_DATA names. With --toy, few images show on a CPU that all parts
run; the numbers then say nothing. Prints one JSON object a part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
from cifar_networks import read
from torch import nn
from torchvision.models import resnet18

import nas
from evaluators import PGD, radii
from nas.data import Split, open_data, open_test, split_at_random
from nas.data.config import DataConfig
from nas.training.config import TrainingConfig
from nas.training.network import Normalised, build_network, probe
from nas.training.recipes import NFGSM, Standard
from nas.training.train import train
from search_spaces import cell201

SHARED = Path(os.environ.get("HARDCELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
EPSILON = 8 / 255
PGD20 = PGD(steps=20, step_size=0.1)
BASE = TrainingConfig(shift=4, flip=True, selection_from=0.95, selection=PGD(steps=5, step_size=0.4))
ROBUST = replace(BASE, batch_size=512, learning_rate=0.4, epochs=10, selection_from=0.85)
ACCURATE = replace(BASE, batch_size=1024, learning_rate=0.8, epochs=9, cutout=8)
CANDIDATE = replace(BASE, batch_size=512, learning_rate=0.4, epochs=5)


def images(data, device, count):
    """Returns training images with 1,000 for validation, and at most `count` test images, on a device.

    From the archive, five times as many training images are read, so that the default is all of CIFAR-10.
    """
    if data is not None:
        config = DataConfig(name="cifar10", path=data, validation=0.02)
        return open_data(config).to(device), open_test(config).first(count).to(device)
    arrays = read(SHARED / "cifar10-jpeg.tar.xz", {"train": max(1, count // 2), "test": max(1, count // 10)})
    x, y = ({part: torch.from_numpy(arrays[f"{part}_{kind}"]) for part in ("train", "test")} for kind in ("x", "y"))
    pool = split_at_random(x["train"].float() / 255, y["train"], min(0.2, 1000 / len(y["train"])), seed=0)
    return pool.to(device), Split(x["test"].float() / 255, y["test"], "test").to(device)


def resnet(data):
    """Returns ResNet-18 for small images: a first convolution of 3 x 3 without stride, and no pooling behind it."""
    network = resnet18(num_classes=len(data.classes))
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    std, mean = torch.std_mean(data.train.x, dim=(0, 2, 3))
    return Normalised(network, mean.cpu(), std.cpu()).to(data.train.x.device)


def small(data):
    """Returns a small network, for a try without a GPU."""
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10))
    return Normalised(body, torch.zeros(3), torch.ones(3)).to(data.train.x.device)


def synchronised(device):
    """Returns the time, after all work on the device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def trained(name, data, test, recipe, config, make):
    """Trains a network and prints its seconds and its errors on the test images."""
    device = data.train.x.device
    torch.manual_seed(0)
    network = make(data)
    started = synchronised(device)
    history = nas.train(network, data, recipe, config.epochs, epsilon=EPSILON, config=config).history
    seconds = synchronised(device) - started
    image_radii = radii(network, test.x, test.y, PGD20, [EPSILON])
    stages = {stage: round(sum(epoch.stages[stage] for epoch in history), 2) for stage in history[0].stages}
    result = {
        "part": name,
        "seconds": round(seconds, 2),
        "clean_error": round(float((image_radii == 0).double().mean()), 4),
        "error_pgd20": round(float((image_radii <= EPSILON).double().mean()), 4),
        "test_images": len(test.x),
        "collapsed": sum(epoch.collapsed for epoch in history),
        "stages": stages,
    }
    print(json.dumps(result), flush=True)


def candidates(data, config, space, count):
    """Trains random architectures and prints how many an hour can be trained."""
    device, rng = data.train.x.device, random.Random(0)
    chosen = []
    while len(chosen) < count:
        architecture = space.sample(rng)
        network = build_network(space, architecture, data.train.x, len(data.classes), seed=0)
        if not probe(network, data.train.x[:4])[0]:
            chosen.append(architecture)
    started = synchronised(device)
    for architecture in chosen:
        network = build_network(space, architecture, data.train.x, len(data.classes), seed=0)
        recipe = NFGSM(epsilon=EPSILON)
        for _ in train(network, data, replace(config, recipe=recipe), epsilon=EPSILON, epochs=config.epochs, seed=0):
            pass
    seconds = synchronised(device) - started
    result = {"part": "candidates", "trained": count, "epochs": config.epochs, "seconds": round(seconds, 2)}
    print(json.dumps({**result, "candidates_per_hour": round(3600 * count / seconds, 1)}), flush=True)


def main():
    """Runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-10 as torchvision stores it")
    parser.add_argument("--toy", action="store_true", help="few images and small networks, to try the script on a CPU")
    parser.add_argument(
        "--parts", nargs="+", choices=["robust", "accurate", "candidates"], default=["robust", "accurate", "candidates"]
    )
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    toy = {"epochs": 1, "batch_size": 32} if options.toy else {}
    data, test = images(options.data, device, 100 if options.toy else 10_000)
    make = small if options.toy else resnet
    print(
        json.dumps({"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__})
    )
    if "robust" in options.parts:
        trained("robust", data, test, NFGSM(epsilon=EPSILON), replace(ROBUST, **toy), make)
    if "accurate" in options.parts:
        trained("accurate", data, test, Standard(label_smoothing=0.1), replace(ACCURATE, **toy), make)
    if "candidates" in options.parts:
        space = cell201(channels=16, cells_per_stage=1 if options.toy else 5, stages=3)
        candidates(data, replace(CANDIDATE, **toy), space, 2 if options.toy else 4)


if __name__ == "__main__":
    main()
