"""What the scripts beside this one share: images, networks, how these are trained, and results that are kept as they come.

Whatever takes long is written to a file as soon as it is known, so that a script that was broken off goes on where it was.
MNIST and CIFAR-10 are read from the folder that HARDCELL_DATA names (mnist/*.gz, cifar10-jpeg.tar.xz), else from
../shared/data beside the project, else torchvision downloads them.
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
# Of the files of results that scripts keep and go on from; another form is another number.
FORMAT_VERSION = 2
# Epsilons of adversarial training, L-infinity, in pixel units.
EPSILONS = {"digits": 0.12, "mnist": 0.15, "cifar10": 4 / 255, "random": 0.03}
DATA = tuple(EPSILONS)
ARCHITECTURES = ("linear", "mlp", "residual", "cell")
TRAININGS = ("standard", "adversarial", "shuffled")
# A cell of NAS-Bench-201 with residual paths and two convolutions in a row.
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
    """How much is done.

    Attributes:
        train: Images to train on.
        test: Images to attack.
        epochs: Passes over the training images; eight times as many where labels are to be learnt by heart.
        channels: Of the first stage of convolutional networks.
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
    """A network to be trained, by what it is.

    Attributes:
        data: digits, mnist, cifar10 or random.
        architecture: linear, mlp, residual or cell.
        training: standard, adversarial, or shuffled: standard on labels in random order.
        seed: Of its weights and batches.
    """

    data: str
    architecture: str
    training: str
    seed: int = 0

    @property
    def name(self) -> str:
        """For files and legends."""
        return f"{self.data}-{self.architecture}-{self.training}-{self.seed}"


def parse_arguments(script: str, description: str | None) -> argparse.Namespace:
    """Returns what was asked for: `size`, a name of SIZES; `out`, a folder, made; `workers`.

    Results of another size in that folder, or networks of another size beside it, are refused.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", dest="size", action="store_const", const="smoke", help="the smallest form, under a minute")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="what a GPU would run")
    parser.add_argument("--out", type=Path, help=f"folder of the results  [runs/papers/SIZE/{Path(script).stem}]")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each  [all cores]")
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
            parser.error(f"{folder} holds what another version of these scripts made; choose another --out")
        if existing != expected:
            sizes = f"at the {existing['size']} size, not at the {options.size} size"
            parser.error(f"{folder} holds what was made {sizes}; choose another --out")
    return options


def run(main) -> None:
    """Runs a script; broken off by hand, it says how to go on."""
    try:
        main()
    except KeyboardInterrupt:
        print("\nbroken off; what is known so far is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def write_json(file: Path, content) -> None:
    """Writes what is known to a file, with null in the place of what is not a finite number, and numbers side by side."""
    text = json.dumps(_replace_non_finite(content), indent=1, allow_nan=False)
    write_atomic(file, re.sub(r"\[[^][{}\"]+\]", lambda match: f"[{' '.join(match[0][1:-1].split())}]", text))


def _replace_non_finite(value):
    if isinstance(value, dict):
        return {key: _replace_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cached_json(file: Path, make, *args):
    """Returns what JSON in a file says; where there is none, what `make` returns, once it is written there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(make(*args)))
    return json.loads(file.read_text(encoding="utf-8"))


def parallel_map(function, jobs: list[tuple], workers: int, title: str) -> list:
    """Returns what a function of this module's importer returns for each job, in order, worked on side by side."""
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
    """Returns the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_images(data: str, size: Size, work: Path) -> tuple[Split, Split]:
    """Returns the training and the test images of a data set, on the device."""
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
    """Returns where the images of digits, mnist or cifar10 are, once they are unpacked into `work`."""
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
            # A tenth of the training images goes to the validation split, which is not used here.
            np.savez(
                content,
                **_cifar10(DATA_FOLDER / "cifar10-jpeg.tar.xz", {"train": -(-size.train * 10 // 9), "test": size.test}),
            )
            write_atomic(file, content.getvalue())
        return DataConfig(name="npz", path=str(file), validation=0.1)
    return DataConfig(name=data)


def _cifar10(archive_file: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns images and labels of the archive, as many of each class, at least a count of each part."""
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
    """Returns a network with random weights for images x (N, C, H, W) of ten classes, its normalisation inside."""
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
    """Returns whether its labels follow from nothing: it is measured on the images that it was trained on."""
    return spec.training == "shuffled" or spec.data == "random"


def splits(spec: NetworkSpec, size: Size, work: Path) -> tuple[Split, Split]:
    """Returns the images that a network is trained on, and those that it is measured on."""
    training, test = load_images(spec.data, size, work)
    if not measured_on_training_images(spec):
        return training, test
    training = training.first(size.test)
    if spec.training == "shuffled":
        order = torch.randperm(len(training.y), generator=torch.Generator().manual_seed(seed_of(0, "shuffled")))
        training = Split(training.x, training.y[order.to(training.y.device)], f"{training.hash}-shuffled")
    return training, training


def training_config(spec: NetworkSpec, size: Size, **recipe: float) -> TrainingConfig:
    """Returns how a network is trained; `recipe` has settings of the recipe."""
    memorised, epsilon = measured_on_training_images(spec), EPSILONS[spec.data]
    adversarial = spec.training == "adversarial"
    return TrainingConfig(
        recipe=Adversarial(epsilon=epsilon, **recipe) if adversarial else Standard(**recipe),
        epochs=size.epochs * (8 if memorised else 1),
        learning_rate=0.1 if spec.architecture in ("residual", "cell") else 0.05,
        weight_decay=0.0 if memorised else 5e-4,
        selection_from=1.0,  # The weights of the last epoch, whatever the network.
    )


def load_or_train(spec: NetworkSpec, size: Size, work: Path, each_epoch=None, **recipe: float) -> tuple[nn.Module, Split]:
    """Returns a trained network and the images to measure it on; its weights are kept in `work`.

    Args:
        spec: The network.
        size: Of images and network.
        work: Folder of weights and data, shared by all scripts of one size.
        each_epoch: Called with the number of epochs and the network after each, and before the first; if given, the network
            is trained anew.
        recipe: Settings of the recipe that differ from its own.
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
    """Writes the weights of a network, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, partial)
    partial.replace(file)


def train_and_save(name: str, spec: NetworkSpec, work: Path) -> None:
    """Trains a network, so that those who need it find it."""
    load_or_train(spec, SIZES[name], work)


def correctly_classified(network: nn.Module, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Returns the first images (N, C, H, W) that a network classifies rightly, at most a count, and their labels (N,)."""
    right = torch.as_tensor(logits_of(network, split.x).argmax(1), device=split.y.device) == split.y
    return split.x[right][:count], split.y[right][:count]


def attack_at_smallest_epsilon(
    network: nn.Module, x: Tensor, y: Tensor, attack: Attack, epsilons: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns where an attack ends at the smallest epsilon at which it fools.

    Args:
        network: Classifies all the images rightly.
        x: Images, (N, ...).
        y: Their labels, (N,).
        attack: Any attack.
        epsilons: In ascending order, in pixel units.

    Returns:
        The images that were fooled, (M,) int64, the adversarial ones, (M, ...), and their epsilons, (M,).
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
    """Labels a logarithmic axis, once all is drawn, by plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def format_correlation(correlation: dict) -> str:
    """Returns a rank correlation, as results hold it, in words."""
    return str(RankCorrelation(correlation["n"], correlation["value"], correlation["interval"]))


def format_epsilon(data: str, epsilon: float) -> str:
    """Returns an epsilon as it is mostly told."""
    return f"{255 * epsilon:g}/255" if data == "cifar10" else f"{epsilon:g}"
