"""Shared code of the paper scripts: images, networks, training, and cached results.

Each slow result is written to a file as soon as it exists. An interrupted script resumes from these files.
MNIST and CIFAR-10 are read from the folder HARDCELL_DATA (mnist/*.gz, cifar10-jpeg.tar.xz), or from ../shared/data next to
the project. If neither exists, torchvision downloads them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import multiprocessing
import os
import re
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evaluators import Attack, RankCorrelation
from evaluators.logits.differences import logits_of
from nas.data import Dataset, Split, open_data, open_test
from nas.data.config import DataConfig
from nas.files import write_atomic
from nas.seeds import seed_of
from nas.training.config import TrainingConfig
from nas.training.network import Normalised
from nas.training.recipes import Adversarial, Standard
from nas.training.train import train
from search_spaces import cell201, macro

if TYPE_CHECKING:
    from matplotlib.axis import Axis

ROOT = Path(__file__).parents[2]
DATA_FOLDER = Path(os.environ.get("HARDCELL_DATA") or ROOT / ".." / "shared" / "data")
# Version of the result files from which scripts resume. Increase it if their format changes.
FORMAT_VERSION = 2
# Epsilons of adversarial training, L-infinity, in pixel units.
EPSILONS = {"digits": 0.12, "mnist": 0.15, "cifar10": 4 / 255, "random": 0.03}
DATA = tuple(EPSILONS)
ARCHITECTURES = ("linear", "mlp", "residual", "cell")
TRAININGS = ("standard", "adversarial", "shuffled")
# A NAS-Bench-201 cell with residual paths and two consecutive convolutions.
RESIDUAL_CELL = {
    "edge01": "conv3x3",
    "edge02": "skip",
    "edge12": "conv3x3",
    "edge03": "skip",
    "edge13": "conv1x1",
    "edge23": "skip",
}


@dataclass(frozen=True)
class Size:
    """Size of the experiments.

    Attributes:
        train: Number of training images.
        test: Number of attacked images.
        epochs: Number of training epochs. Networks that memorise labels get eight times as many.
        channels: Number of channels of the first stage of convolutional networks.
    """

    train: int
    test: int
    epochs: int
    channels: int


SIZES = {
    "smoke": Size(train=600, test=120, epochs=12, channels=4),
    "default": Size(train=2000, test=600, epochs=8, channels=8),
    "full": Size(train=50_000, test=5000, epochs=30, channels=32),
}


@dataclass(frozen=True)
class NetworkSpec:
    """Specification of a trained network.

    Attributes:
        data: digits, mnist, cifar10 or random.
        architecture: linear, mlp, residual or cell.
        training: standard, adversarial, or shuffled (standard training on shuffled labels).
        seed: Seed of the weights and batches.
    """

    data: str
    architecture: str
    training: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the network in files and legends."""
        return f"{self.data}-{self.architecture}-{self.training}-{self.seed}"


def parse_arguments(script: str, description: str | None) -> argparse.Namespace:
    """Parses the command line and returns `size` (a name of SIZES), `out` (an existing folder) and `workers`.

    The script exits with an error if the output folder, or the folder `networks` beside it, has results of another size or
    version.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", dest="size", action="store_const", const="smoke", help="smallest size, under a minute")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="full size, for a GPU")
    parser.add_argument("--out", type=Path, help=f"output folder  [runs/papers/SIZE/{Path(script).stem}]")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, one thread each  [all cores]")
    parser.set_defaults(size="default")
    options = parser.parse_args()
    options.out = options.out or Path("runs/papers") / options.size / Path(script).stem
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, got {options.workers}")
    expected = {"size": options.size, "form": FORMAT_VERSION}
    for folder in (options.out, options.out.parent / "networks"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            parser.error(f"--out: {folder} is a file; name a folder")
        existing = cached_json(folder / "size.json", lambda: expected)
        if not isinstance(existing, dict) or existing["form"] != FORMAT_VERSION:
            parser.error(f"{folder} has results of another version of these scripts; choose another --out")
        if existing != expected:
            sizes = f"at the {existing['size']} size, not at the {options.size} size"
            parser.error(f"{folder} has results {sizes}; choose another --out")
    return options


def run(main) -> None:
    """Runs a script. On Ctrl-C, it prints how to resume and exits with 130."""
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted; the results so far are saved, and the same command resumes", file=sys.stderr)
        sys.exit(130)


def write_json(file: Path, content) -> None:
    """Writes results as JSON, with null for non-finite numbers and each list of numbers on one line."""
    text = json.dumps(_replace_non_finite(content), indent=1, allow_nan=False)
    write_atomic(file, re.sub(r"\[[^][{}\"]+\]", lambda match: f"[{' '.join(match[0][1:-1].split())}]", text))


def _replace_non_finite(value):
    if isinstance(value, dict):
        return {key: _replace_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cached_json(file: Path, make, *args):
    """Returns the content of a JSON file. If the file does not exist, it writes the result of `make` first."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(make(*args)))
    return json.loads(file.read_text(encoding="utf-8"))


def parallel_map(function, jobs: list[tuple], workers: int, title: str) -> list:
    """Calls a function for each job in parallel processes and returns the results in the order of the jobs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = {}
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=len(jobs))
        if workers <= 1:
            for number, job in enumerate(jobs):
                results[number] = function(*job)
                progress.advance(task)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                numbers = {pool.submit(function, *job): number for number, job in enumerate(jobs)}
                try:
                    for future in as_completed(numbers):
                        results[numbers[future]] = future.result()
                        progress.advance(task)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return [results[number] for number in range(len(jobs))]


def device() -> torch.device:
    """Returns the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_images(data: str, size: Size, work: Path) -> tuple[Split, Split]:
    """Returns the training and test images of a data set, on the device."""
    if data == "random":
        return _random_images(size.train, 0).to(device()), _random_images(size.test, 1).to(device())
    config = data_config(data, size, work)
    dataset, test = open_data(config), open_test(config)
    return dataset.train.first(size.train).to(device()), test.first(size.test).to(device())


def _random_images(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=generator)
    return Split(x, torch.randint(10, (count,), generator=generator), f"random-{seed}")


def data_config(data: str, size: Size, work: Path) -> DataConfig:
    """Unpacks the images of digits, mnist or cifar10 into `work` and returns their data config."""
    if data == "mnist" and (DATA_FOLDER / "mnist").is_dir():
        raw = work / "data" / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for packed in (DATA_FOLDER / "mnist").glob("*.gz"):
            if not (raw / packed.stem).exists():
                write_atomic(raw / packed.stem, gzip.decompress(packed.read_bytes()))
        return DataConfig(name="mnist", path=str(work / "data"))
    if data == "cifar10" and (DATA_FOLDER / "cifar10-jpeg.tar.xz").exists():
        file = work / "data" / f"cifar10-{size.train}-{size.test}.npz"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()
            # A tenth of the training images is the validation split, which these scripts do not use.
            np.savez(
                content,
                **_cifar10(DATA_FOLDER / "cifar10-jpeg.tar.xz", {"train": -(-size.train * 10 // 9), "test": size.test}),
            )
            write_atomic(file, content.getvalue())
        return DataConfig(name="npz", path=str(file), validation=0.1)
    return DataConfig(name=data)


def _cifar10(archive_file: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns the images and labels of the archive, with the same number per class and at least `counts` per part."""
    from PIL import Image

    x, y = {part: [] for part in counts}, {part: [] for part in counts}
    classes: dict[str, int] = {}
    of_class: dict[tuple[str, str], int] = {}
    with tarfile.open(archive_file) as archive:
        for entry in archive:
            if not entry.isfile():
                continue
            part, label = Path(entry.name).parts[-3:-1]
            of_class[part, label] = of_class.get((part, label), 0) + 1
            if of_class[part, label] > -(-counts[part] // 10):
                continue
            with Image.open(archive.extractfile(entry)) as image:
                x[part].append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
            y[part].append(classes.setdefault(label, len(classes)))
    arrays = {f"x_{part}": np.stack(values) for part, values in x.items()}
    return arrays | {f"y_{part}": np.array(values) for part, values in y.items()}


def build(spec: NetworkSpec, x: Tensor, size: Size) -> nn.Module:
    """Returns a network with random weights and input normalisation, for images x (N, C, H, W) of ten classes."""
    std, mean = torch.std_mean(x, dim=(0, 2, 3))
    channels, height, width = x.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(spec.seed, "weights"))
        match spec.architecture:
            case "linear":
                body = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 10))
            case "mlp":
                wide = 16 * size.channels
                layers = [nn.Linear(channels * height * width, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU()]
                body = nn.Sequential(nn.Flatten(), *layers, nn.Linear(wide, 10))
            case "residual":
                space = macro(stages=2)
                plain = {"depth1": 1, "depth2": 1, "width1": 2 * size.channels, "width2": 4 * size.channels}
                start = {name: choice.values[0] for name, choice in space.choices.items()}
                body = space.build(start | plain, (channels, height, width), 10)
            case "cell":
                space = cell201(channels=size.channels, cells_per_stage=1, stages=2)
                body = space.build(RESIDUAL_CELL, (channels, height, width), 10)
    return Normalised(body, mean.cpu(), std.cpu().clamp(min=1e-3)).to(x.device)


def measured_on_training_images(spec: NetworkSpec) -> bool:
    """Returns whether a network is measured on its training images, because its labels are random."""
    return spec.training == "shuffled" or spec.data == "random"


def splits(spec: NetworkSpec, size: Size, work: Path) -> tuple[Split, Split]:
    """Returns the training images of a network and the images on which it is measured."""
    training, test = load_images(spec.data, size, work)
    if not measured_on_training_images(spec):
        return training, test
    training = training.first(size.test)
    if spec.training == "shuffled":
        order = torch.randperm(len(training.y), generator=torch.Generator().manual_seed(seed_of(0, "shuffled")))
        training = Split(training.x, training.y[order.to(training.y.device)], f"{training.hash}-shuffled")
    return training, training


def training_config(spec: NetworkSpec, size: Size, **recipe: float) -> TrainingConfig:
    """Returns the training config of a network. The keywords in `recipe` are settings of the recipe."""
    memorised, epsilon = measured_on_training_images(spec), EPSILONS[spec.data]
    adversarial = spec.training == "adversarial"
    return TrainingConfig(
        recipe=Adversarial(epsilon=epsilon, **recipe) if adversarial else Standard(**recipe),
        epochs=size.epochs * (8 if memorised else 1),
        learning_rate=0.1 if spec.architecture in ("residual", "cell") else 0.05,
        weight_decay=0.0 if memorised else 5e-4,
        selection_from=1.0,  # Keep the weights of the last epoch for every network.
    )


def load_or_train(spec: NetworkSpec, size: Size, work: Path, each_epoch=None, **recipe: float) -> tuple[nn.Module, Split]:
    """Returns a trained network and the images on which it is measured. The weights are stored in `work`.

    Args:
        spec: Specification of the network.
        size: Size of the images and the network.
        work: Folder of weights and data, shared by all scripts of one size.
        each_epoch: Function of the epoch and the network, called before the first and after each epoch. If it is given,
            the network is trained again.
        recipe: Settings of the recipe that differ from the defaults.
    """
    training, evaluation = splits(spec, size, work)
    network, config = build(spec, training.x, size), training_config(spec, size, **recipe)
    name = "-".join([spec.name, *(f"{key}-{value:g}" for key, value in recipe.items())])
    file = work / "networks" / f"{name}.safetensors"
    if file.exists() and each_epoch is None:
        network.load_state_dict(load_file(file, device=str(training.x.device)))
        return network.eval(), evaluation
    if each_epoch is not None:
        each_epoch(0, network)
    seed = seed_of(spec.seed, "training")
    data = Dataset(spec.data, tuple(map(str, range(10))), training, training.first(32))
    for epoch in train(network, data, config, epsilon=EPSILONS[spec.data], epochs=config.epochs, seed=seed):
        if each_epoch is not None:
            each_epoch(epoch.epoch, network)
    if not file.exists():
        save(network, file)
    return network.eval(), evaluation


def save(network: nn.Module, file: Path) -> None:
    """Writes the weights of a network atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, partial)
    partial.replace(file)


def train_and_save(name: str, spec: NetworkSpec, work: Path) -> None:
    """Trains a network and stores its weights for later jobs."""
    load_or_train(spec, SIZES[name], work)


def correctly_classified(network: nn.Module, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Returns the first correctly classified images (N, C, H, W), at most `count`, and their labels (N,)."""
    right = torch.as_tensor(logits_of(network, split.x).argmax(1), device=split.y.device) == split.y
    return split.x[right][:count], split.y[right][:count]


def attack_at_smallest_epsilon(
    network: nn.Module, x: Tensor, y: Tensor, attack: Attack, epsilons: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the adversarial images at the smallest epsilon at which an attack succeeds.

    Args:
        network: Network that classifies all the images correctly.
        x: Images (N, ...).
        y: Labels (N,).
        attack: Attack.
        epsilons: Radii of the ball in ascending order, in pixel units.

    Returns:
        Indices of the images on which the attack succeeds (M,) int64, the adversarial images (M, ...), and their epsilons
        (M,).
    """
    points, smallest = x.clone(), torch.full((len(x),), math.inf, dtype=torch.float64)
    for epsilon in epsilons:
        remaining = smallest.isinf().nonzero().squeeze(1)
        if not len(remaining):
            break
        indices = remaining.to(x.device)
        adversarial = attack(network, x[indices], y[indices], epsilon)
        fooled = torch.as_tensor(logits_of(network, adversarial).argmax(1)) != y[indices].cpu()
        points[indices[fooled.to(x.device)]] = adversarial[fooled.to(x.device)]
        smallest[remaining[fooled]] = epsilon
    fooled_images = smallest.isfinite().nonzero().squeeze(1)
    return fooled_images.to(x.device), points[fooled_images.to(x.device)], smallest[fooled_images]


def plain_ticks(axis: Axis) -> None:
    """Formats the ticks of a logarithmic axis as plain numbers. Call it after drawing."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def format_correlation(correlation: dict) -> str:
    """Formats a rank correlation of a results file as text."""
    return str(RankCorrelation(correlation["n"], correlation["value"], correlation["interval"]))


def format_epsilon(data: str, epsilon: float) -> str:
    """Formats an epsilon: k/255 for CIFAR-10, otherwise a decimal number."""
    return f"{255 * epsilon:g}/255" if data == "cifar10" else f"{epsilon:g}"
