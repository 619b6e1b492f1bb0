"""Compares our training with the script that a user would write, and recipes with each other.

    python tests/benchmarks/training.py speed [--data cifar10 mnist] [--recipes ...] [--images 10000] [--rounds 3]
    python tests/benchmarks/training.py error [--data cifar10] [--recipes n_fgsm pgd] [--seeds 5] [--last]
    python tests/benchmarks/training.py noise [--data digits] [--size 16] [--architectures 6] [--seeds 10]
    python tests/benchmarks/training.py strength [--seconds 20 40 80] [--size 16 32] [--test 500] [--figure FILE.png]

The script (`script`) uses PIL images, transforms of torchvision, a DataLoader with two workers, and attacks as in
torchattacks. It trains the same architecture with the same optimiser, learning rate and weight decay, in float32. Ours
trains in the faster precision, as in a search. The images are in ../shared/data, or in the folder that the environment
variable HARDCELL_DATA names. Each part prints JSON.

- speed: images per second of both, and their ratio. Both run in turn in each round. Our time includes one measurement on 64
  validation images, after the last epoch. The two workers of the script run beside the threads of `--threads`.
- error: errors of both under PGD-20 after equally many epochs. Our weights are chosen with 500 validation images, unless
  `--last` is given. The script always keeps the weights of its last epoch.
- noise: standard deviation of the error under PGD-20 between seeds, for random architectures and two training configs:
  `before` has the former defaults, with single-step PGD and without averaged weights, and `after` has the default settings.
- strength: error under AutoAttack against the CPU seconds of the training, for several recipes on CIFAR-10 images of 16 x 16
  or 32 x 32 pixels. Each recipe is trained for as many epochs as fit into about `--seconds`. The time includes one
  measurement on 500 validation images.

A recipe of one gradient step may collapse. Our training then repeats the epoch with PGD, and `collapsed` counts such epochs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.data
from cifar_networks import images as cifar10_images
from matplotlib.figure import Figure
from PIL import Image
from torchvision import transforms

from evaluators import PGD, AutoAttack, macs, radii
from nas import Config
from nas.data import Dataset, Split, open_data, open_test
from nas.data.config import DataConfig
from nas.plots.style import COLOURS, STYLE
from nas.spaces.options import open_space
from nas.training.batches import images_in_batch
from nas.training.config import TrainingConfig
from nas.training.network import Normalised, build_network, probe
from nas.training.optimiser import peak_rate
from nas.training.precision import faster_precision
from nas.training.recipes import RECIPES, Adversarial
from nas.training.train import train
from search_spaces import cell201

SHARED = Path(os.environ.get("HARDCELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SPACE = cell201(channels=16, cells_per_stage=2, stages=3)
# Operations of the edges 0-1, 0-2, 1-2, 0-3, 1-3 and 2-3: 278,938 parameters on CIFAR-10.
ARCHITECTURE = dict(zip(SPACE.choices, ("conv3x3", "skip", "conv1x1", "skip", "skip", "conv3x3"), strict=True))
CLASSES = tuple(map(str, range(10)))
PGD_STEPS = 7
# Passes through the network for each image: a forward pass, or a backward pass to either the weights or the input.
PASSES = {"standard": 3, "fast": 3 + 2, "n_fgsm": 3 + 2, "pgd": 3 + 2 * PGD_STEPS}
DEFAULTS = TrainingConfig()
# Former default settings.
FORMER = {"batch_size": 64, "learning_rate": 0.2, "selection_from": 0.7}
PGD20 = PGD(steps=20, step_size=0.1)


@dataclass(frozen=True)
class Task:
    """Images of a data set, and settings of their training. Training and attacks have the same epsilon."""

    train: Split
    validation: Split
    test: Split
    epsilon: float
    shift: int = 0
    flip: bool = False


def open_task(data, count, tests=1000, size=32):
    """Returns a task with at most `count` training images (of 10,000 for CIFAR-10 and MNIST) and `tests` test images.

    Images of CIFAR-10 are reduced to a side of `size` pixels, 16 or 32, by averages.
    """
    if data == "digits":
        digits, test = open_data(DataConfig()), open_test(DataConfig())
        return Task(digits.train.first(count), digits.validation, test, Config().evaluation.epsilon)
    if data == "cifar10":
        factor = 32 // size
        pool, test = cifar10_images(SHARED / "cifar10-jpeg.tar.xz")
        pool, test = (replace(split, x=F.avg_pool2d(split.x, factor)) for split in (pool, test))
        settings = {"epsilon": 8 / 255, "shift": 4 // factor, "flip": True}
    else:
        pool, test = mnist_images("train"), mnist_images("t10k")
        settings = {"epsilon": 0.1, "shift": 2}
    validation = Split(pool.x[10_000:10_500], pool.y[10_000:10_500], "validation")
    return Task(pool.first(min(count, 10_000)), validation, test.first(tests), **settings)


def mnist_images(part):
    """Returns the images of a part of MNIST, train or t10k."""
    x, y = (
        np.frombuffer(gzip.decompress((SHARED / "mnist" / f"{part}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return Split(torch.from_numpy(x.reshape(-1, 1, 28, 28) / np.float32(255)), torch.from_numpy(y.astype(np.int64)), part)


def recipe_of(name, epsilon):
    """Returns the recipe with a name. PGD takes 7 steps, and all other settings are the defaults."""
    if name == "standard":
        return RECIPES[name]()
    return RECIPES[name](epsilon=epsilon, **({"steps": PGD_STEPS} if name == "pgd" else {}))


def config_of(task, recipe, epochs, batch, **settings):
    """Returns the config of our training, for a recipe with a name."""
    sizes = {"epochs": epochs, "batch_size": batch, "shift": task.shift, "flip": task.flip}
    return TrainingConfig(recipe=recipe_of(recipe, task.epsilon), **sizes, **settings)


def ours(task, config, seed, space=SPACE, architecture=ARCHITECTURE):
    """Returns a network that our loop trained, the seconds of the training, and the number of collapsed epochs."""
    network = build_network(space, architecture, task.train.x, len(CLASSES), seed)
    data = Dataset("benchmark", CLASSES, task.train, task.validation)
    if config.precision == "auto":  # As a search does at its start, so it is not timed.
        config = replace(
            config,
            precision=faster_precision(network, task.train.x[: images_in_batch(config.batch_size, len(task.train.x))]),
        )
    started = time.perf_counter()
    results = list(train(network, data, config, epsilon=task.epsilon, epochs=config.epochs, seed=seed))
    return network, time.perf_counter() - started, sum(result.collapsed for result in results)


def theirs(task, recipe, epochs, batch, seed):
    """Returns a network that the script trained, and the seconds of the training."""
    std, mean = torch.std_mean(task.train.x, dim=(0, 2, 3))
    torch.manual_seed(seed)
    # Unlike `build_network`, this keeps the contiguous layout of the weights.
    network = Normalised(SPACE.build(ARCHITECTURE, task.train.x.shape[1:], len(CLASSES)), mean, std)
    dataset = PILImages(task.train)
    started = time.perf_counter()
    script(network, dataset, recipe, task, epochs, batch)
    return network.eval(), time.perf_counter() - started


class PILImages(torch.utils.data.Dataset):
    """Images as in the data sets of torchvision: stored as bytes, and opened with PIL and transformed one by one."""

    def __init__(self, split):
        self.pixels = (split.x * 255).round().byte().permute(0, 2, 3, 1).squeeze(3).numpy()
        self.labels = split.y.tolist()
        self.transform = None

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def script(network, dataset, recipe, task, epochs, batch):
    """Trains a network as a typical script does: standard, fast, n_fgsm or pgd."""
    epsilon, size = task.epsilon, dataset.pixels.shape[1]
    augmentation = [transforms.RandomCrop(size, padding=task.shift)]
    if task.flip:
        augmentation.append(transforms.RandomHorizontalFlip())
    dataset.transform = transforms.Compose([*augmentation, transforms.ToTensor()])
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=2)
    lr = peak_rate("sgd", None, batch)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=DEFAULTS.weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, epochs=epochs, steps_per_epoch=len(loader))
    # Size of the noise at the start, length of a step, and number of steps.
    start, alpha, steps = {
        "standard": (0, 0, 0),
        "fast": (epsilon, 1.25 * epsilon, 1),
        "n_fgsm": (2 * epsilon, epsilon, 1),
        "pgd": (epsilon, 0.25 * epsilon, PGD_STEPS),
    }[recipe]
    network.train()
    for _ in range(epochs):
        for images, labels in loader:
            adv_images = images
            if steps:
                network.eval()
                images = images.clone().detach()
                adv_images = images + torch.empty_like(images).uniform_(-start, start)
                adv_images = torch.clamp(adv_images, min=0, max=1).detach()
                for _ in range(steps):
                    adv_images.requires_grad = True
                    cost = F.cross_entropy(network(adv_images), labels)
                    grad = torch.autograd.grad(cost, adv_images, retain_graph=False, create_graph=False)[0]
                    adv_images = adv_images.detach() + alpha * grad.sign()
                    if recipe != "n_fgsm":
                        delta = torch.clamp(adv_images - images, min=-epsilon, max=epsilon)
                        adv_images = images + delta
                    adv_images = torch.clamp(adv_images, min=0, max=1).detach()
                network.train()
            optimizer.zero_grad()
            loss = F.cross_entropy(network(adv_images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()


def peak(dtype, side=1024, repeats=20):
    """Returns the floating-point operations per second of the product of two square matrices."""
    a, b, seconds = torch.rand(side, side).to(dtype), torch.rand(side, side).to(dtype), []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


def error(network, split, epsilon, attack):
    """Returns the adversarial error of a network."""
    return float((radii(network, split.x, split.y, attack, [epsilon]) <= epsilon).double().mean())


def speed(options):
    """Yields images per second of both trainings, for each data set and recipe."""
    for data in options.data:
        task = open_task(data, options.images)
        task = replace(task, validation=task.validation.first(64))
        for recipe in options.recipes:
            # A short first training, because torch loads many modules in it.
            speed_round(replace(task, train=task.train.first(2 * options.batch)), recipe, 1, options.batch, 0)
            rounds = [speed_round(task, recipe, options.epochs, options.batch, seed) for seed in range(options.rounds)]
            columns = {name: [row[name] for row in rounds] for name in rounds[0]}
            yield {
                "data": data,
                "recipe": recipe,
                "images": len(task.train.x),
                "epochs": options.epochs,
                "median": {name: round(statistics.median(values), 3) for name, values in columns.items()},
                "rounds": {name: [round(value, 3) for value in values] for name, values in columns.items()},
            }


def speed_round(task, recipe, epochs, batch, seed):
    """Returns the speeds of both trainings, their ratio, and the share of the peak that ours reaches."""
    network = build_network(SPACE, ARCHITECTURE, task.train.x, len(CLASSES), seed)
    precision = faster_precision(network, task.train.x[:batch])
    operations_per_second = peak(getattr(torch, precision))
    config = config_of(task, recipe, epochs, batch, selection_from=1.0, precision=precision)
    network, our_seconds, collapsed = ours(task, config, seed)
    _, their_seconds = theirs(task, recipe, epochs, batch, seed)
    images = len(task.train.x) // batch * batch * epochs
    operations = 2 * macs(network, task.train.x.shape[1:]) * images * PASSES[recipe]
    return {
        "our_images_per_second": images / our_seconds,
        "their_images_per_second": images / their_seconds,
        "ratio": their_seconds / our_seconds,
        "our_share_of_peak": operations / our_seconds / operations_per_second,
        "peak_gflops": operations_per_second / 1e9,
        "in_bfloat16": precision == "bfloat16",
        "collapsed": collapsed,
    }


def compare_errors(options):
    """Yields the errors of both trainings under PGD-20, for each data set and recipe."""
    settings = {"selection_from": 1.0, "average": False} if options.last else {}
    for data in options.data:
        task = open_task(data, options.images, options.test)
        for recipe in options.recipes:
            config = config_of(task, recipe, options.epochs, options.batch, **settings)
            errors, collapsed = {"ours": [], "theirs": []}, []
            for seed in range(options.seeds):
                network, _, count = ours(task, config, seed)
                collapsed.append(count)
                errors["ours"].append(error(network, task.test, task.epsilon, PGD20))
                network, _ = theirs(task, recipe, options.epochs, options.batch, seed)
                errors["theirs"].append(error(network, task.test, task.epsilon, PGD20))
            differences = np.subtract(errors["ours"], errors["theirs"])
            yield {
                "data": data,
                "recipe": recipe,
                "images": len(task.train.x),
                "epochs": options.epochs,
                "errors": {name: [round(value, 4) for value in values] for name, values in errors.items()},
                "means": {name: round(statistics.mean(values), 4) for name, values in errors.items()},
                "difference": round(float(differences.mean()), 4),
                "standard_error": round(float(differences.std(ddof=1) / len(differences) ** 0.5), 4),
                "collapsed": collapsed,
            }


def noise(options):
    """Yields the standard deviation of the error between seeds, before and after, for each data set."""
    space = open_space(Config().space, trust=False)
    for data in options.data:
        task = open_task(data, options.images, options.test, options.size)
        settings = {"shift": task.shift, "flip": task.flip, "epochs": options.epochs}
        configs = {
            "before": TrainingConfig(recipe=Adversarial(epsilon=task.epsilon), average=False, **FORMER, **settings),
            "after": TrainingConfig(recipe=replace(DEFAULTS.recipe, epsilon=task.epsilon), **settings),
        }
        architectures = random_architectures(space, task.train.x, options.architectures)
        report = {}
        for name, config in configs.items():
            networks = ((ours(task, config, seed, space, a)[0] for seed in range(options.seeds)) for a in architectures)
            errors = np.array([[error(net, task.test, task.epsilon, PGD20) for net in of_seeds] for of_seeds in networks])
            report[name] = {
                "standard_deviation": round(float(errors.var(axis=1, ddof=1).mean() ** 0.5), 5),
                "standard_deviations": errors.std(axis=1, ddof=1).round(4).tolist(),
                "mean_error": round(float(errors.mean()), 4),
                "mean_errors": errors.mean(axis=1).round(4).tolist(),
            }
        before, after = (report[name]["standard_deviation"] for name in ("before", "after"))
        ratio = round(after / before, 3) if before else None
        yield {"data": data, "images": len(task.train.x), "seeds": options.seeds, **report, "ratio_after_to_before": ratio}


def random_architectures(space, x, count):
    """Returns different random architectures, without those whose logits do not depend on the images."""
    generator, chosen = random.Random(0), {}
    while len(chosen) < count:
        architecture = space.sample(generator)
        if not probe(build_network(space, architecture, x, len(CLASSES), 0), x[:8])[0]:
            chosen[space.key(architecture)] = architecture
    return list(chosen.values())


def strength(options):
    """Yields the seconds of training and the error under AutoAttack, for each size, recipe and number of `--seconds`."""
    rows = []
    for size in options.size:
        for row in strength_at(size, options):
            rows.append(row)
            yield row
    if options.figure:
        draw(rows, options.figure)


def strength_at(size, options):
    """Yields the rows of images of one size."""
    task = open_task("cifar10", options.images, options.test, size)
    network = build_network(SPACE, ARCHITECTURE, task.train.x, len(CLASSES), 0)
    precision = faster_precision(network, task.train.x[: options.batch])
    for recipe in options.recipes:
        of_epoch = None
        for budget in (0.0, *options.seconds):  # The first training, of one epoch, only measures its seconds.
            epochs = max(1, round(budget / of_epoch)) if of_epoch else 1
            config = config_of(task, recipe, epochs, options.batch, selection_from=1.0, precision=precision)
            started = time.process_time()
            network, _, collapsed = ours(task, config, 0)
            seconds = time.process_time() - started
            if of_epoch is None:
                of_epoch = seconds
                continue
            errors = {
                "clean_error": round(error(network, task.test, 0.0, PGD20), 4),
                "error": round(error(network, task.test, task.epsilon, AutoAttack()), 4),
            }
            times = {"size": size, "epochs": epochs, "seconds": round(seconds, 2)}
            yield {"recipe": recipe, **times, **errors, "collapsed": collapsed}


def draw(rows, path):
    """Writes a figure of error against seconds, with a panel for each size and a line for each recipe."""
    sizes, recipes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("size", "recipe"))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.5 * len(sizes) + 1, 4.2), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            for number, recipe in enumerate(recipes):
                points = [(row["seconds"], row["error"]) for row in rows if (row["recipe"], row["size"]) == (recipe, size)]
                if points:
                    style = {"color": COLOURS[number % len(COLOURS)], "marker": "os^Dv"[number % 5]}
                    axes.plot(*zip(*points, strict=True), label=recipe, markersize=4, linewidth=1.6, **style)
            axes.set(xscale="log", xlabel="CPU seconds of training", title=f"{size} x {size} pixels")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="x", which="both", labelsize=7)
        panels[0].set(ylabel="error under AutoAttack at 8/255")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
        figure.savefig(path, dpi=110)


PARTS = {"speed": speed, "error": compare_errors, "noise": noise, "strength": strength}


def main() -> None:
    """Runs a part and prints its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    commands = {name: parts.add_parser(name, help=part.__doc__) for name, part in PARTS.items()}
    for name, command in commands.items():
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--images", type=int, default=10_000, help="largest number of training images")
        if name != "noise":
            command.add_argument("--batch", type=int, default=128)
    recipes, data = [*PASSES], ["cifar10", "mnist"]
    commands["speed"].add_argument("--data", nargs="+", default=data, choices=data)
    commands["speed"].add_argument("--recipes", nargs="+", default=recipes, choices=recipes)
    commands["error"].add_argument("--data", nargs="+", default=["cifar10"], choices=data)
    commands["error"].add_argument("--recipes", nargs="+", default=["n_fgsm", "pgd"], choices=recipes)
    commands["error"].add_argument("--last", action="store_true", help="keep our weights of the last epoch, not averaged")
    commands["noise"].add_argument("--data", nargs="+", default=["digits"], choices=["digits", *data])
    recipes = [*recipes, "free", "fgsm_pgi", "trades", "mart", "mixture"]
    commands["strength"].add_argument("--recipes", nargs="+", default=recipes, choices=recipes)
    commands["strength"].add_argument("--seconds", type=float, nargs="+", default=[20, 40, 80])
    for name, number in (("noise", {"default": 16}), ("strength", {"default": [16, 32], "nargs": "+"})):
        text = "side of the images of CIFAR-10"
        commands[name].add_argument("--size", type=int, choices=[16, 32], help=text, **number)
    commands["strength"].add_argument("--figure", type=Path)
    for name, option, default, text in (
        ("speed", "--epochs", 2, None),
        ("speed", "--rounds", 3, None),
        ("error", "--epochs", 10, None),
        ("error", "--seeds", 5, "number of seeds, at least 2"),
        ("noise", "--epochs", DEFAULTS.epochs, None),
        ("noise", "--seeds", 10, "number of seeds, at least 2"),
        ("noise", "--architectures", 6, None),
        ("error", "--test", 1000, "number of test images"),
        ("noise", "--test", 1000, "number of test images"),
        ("strength", "--test", 500, "number of test images"),
    ):
        commands[name].add_argument(option, type=int, default=default, help=text)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for result in PARTS[options.part](options):
        print(json.dumps({"part": options.part, **result, "threads": options.threads}, indent=1), flush=True)


if __name__ == "__main__":
    main()
