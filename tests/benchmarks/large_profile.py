"""Time and memory of the profile of a large network on CIFAR-10, and how well its time left is known.

The network `resnet18` is torchvision's with a 3 x 3 stem (11.2 million parameters, 0.56 GMACs), trained for two epochs on
3,000 images. `normal` is the small one of cifar_networks.py. The labels are the predictions of the network, so that every
image is attacked. Each profile runs in its own process with one thread. The script measures CPU seconds and the peak memory,
and compares the estimated with the actual time: at one minute, and at parts of the time.

    python tests/benchmarks/large_profile.py [--network normal] [--images 64,128,256,512] [--attack fgsm --epsilon 1/255]

Without `--attack`, the attacks are those that a search runs on its finalists. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import cifar_networks
import numpy as np
import torch
from torch import nn
from torchvision.models import resnet18

from evaluators import ATTACKS, profile
from nas.config.schema import FinalistsConfig
from nas.data import Dataset, Split
from nas.training.config import TrainingConfig
from nas.training.recipes import Standard
from nas.training.train import train

ARCHIVE = (
    Path(os.environ.get("HARDCELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "cifar10-jpeg.tar.xz"
)
TRAINING_IMAGES, EPOCHS = 3000, 2


def network(name: str) -> nn.Module:
    """Returns the trained network in evaluation mode. It is read from the cache if it was trained before."""
    if name != "resnet18":
        return cifar_networks.network(name, ARCHIVE)
    built = resnet18(num_classes=10)
    built.conv1, built.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    stored = cifar_networks.CACHE / "resnet18.pt"
    if stored.exists():
        built.load_state_dict(torch.load(stored, weights_only=True))
        return built.eval()
    training, test = cifar_networks.images(ARCHIVE)
    few = Split(training.x[:TRAINING_IMAGES], training.y[:TRAINING_IMAGES], "train")
    data = Dataset("cifar10", tuple(map(str, range(10))), few, Split(test.x[-100:], test.y[-100:], "validation"))
    config = TrainingConfig(
        recipe=Standard(),
        optimiser="adamw",
        learning_rate=0.002,
        batch_size=64,
        epochs=EPOCHS,
        precision="bfloat16",
        selection_from=0.99,
    )
    built = built.to(memory_format=torch.channels_last)
    for epoch in train(built, data, config, epsilon=1 / 255, epochs=EPOCHS, seed=0):
        print(f"epoch {epoch.epoch}: loss {epoch.loss:.3f}, {epoch.seconds:.0f} s", file=sys.stderr, flush=True)
    torch.save(built.to(memory_format=torch.contiguous_format).state_dict(), stored)
    return built.eval()


def test_images() -> torch.Tensor:
    """Returns the 10,000 test images, (10000, 3, 32, 32) uint8, in random order."""
    stored = cifar_networks.CACHE / "cifar10_test.npz"
    if not stored.exists():
        arrays = cifar_networks.read(ARCHIVE, {"train": 1, "test": 1000})
        np.savez(stored, x=arrays["test_x"])
    with np.load(stored) as file:
        return torch.from_numpy(file["x"])


def measure(name: str, images: int, attack: str | None, epsilons: list[float]) -> dict[str, object]:
    """Returns the times, the peak memory and the errors of the estimated time for one number of images."""
    built = network(name)
    x = test_images()[:images].float() / 255
    with torch.no_grad():
        y = torch.cat([built(part).argmax(1) for part in x.split(32)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attacks = FinalistsConfig().attacks if attack is None else {attack: ATTACKS[attack]()}
    grids = {each.norm.name: epsilons for each in attacks.values()} if epsilons else None
    log: list[tuple[float, float, str]] = []
    started, cpu = time.perf_counter(), time.process_time()

    def progress(stage: str, share: float) -> None:
        log.append((time.perf_counter() - started, share, stage))

    result = profile(built, x, y, attacks, grids, progress=progress)
    seconds = time.perf_counter() - started
    return {
        "images": images,
        "median_radii": {name: float(np.median(radii)) for name, radii in result.radii.items()},
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seconds": round(seconds, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "before_mib": before // 1024,
        "images_mib": round(x.numel() * 4 / 2**20, 1),
        "estimated_total_over_actual": _estimates(log, seconds),
        "stages": {stage: round(min(t for t, _, s in log if s == stage), 1) for stage in {s for _, _, s in log}},
    }


def _estimates(log: list[tuple[float, float, str]], seconds: float) -> dict[str, float]:
    """Returns the estimated total time, divided by the actual one, at some times."""
    at = {"1 minute": 60.0, "25 %": seconds / 4, "50 %": seconds / 2, "75 %": 0.75 * seconds}
    estimates = {}
    for name, moment in at.items():
        shares = [(t, share) for t, share, _ in log if t <= moment and share > 0]
        if shares and moment <= seconds:
            estimates[name] = round(shares[-1][0] / shares[-1][1] / seconds, 2)
    return estimates


def main() -> None:
    """Runs one process for each number of images, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["resnet18", "normal"], default="resnet18")
    parser.add_argument("--images", default="64,128,256,512")
    parser.add_argument("--attack", choices=list(ATTACKS))
    parser.add_argument("--epsilon", action="append", default=[], help="epsilon in pixel units, such as 1/255; repeatable")
    parser.add_argument("--one", action="store_true", help="measure one number of images in this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [int(size) for size in options.images.split(",")]
    if options.one:
        epsilons = [float(top) / float(bottom or 1) for top, _, bottom in (text.partition("/") for text in options.epsilon)]
        print(json.dumps(measure(options.network, sizes[0], options.attack, epsilons)))
        return
    network(options.network)
    test_images()
    rest = [word for epsilon in options.epsilon for word in ("--epsilon", epsilon)]
    rest += ["--attack", options.attack] if options.attack else []
    rest += ["--network", options.network]
    results = []
    for size in sizes:
        command = [sys.executable, __file__, "--one", "--images", str(size), *rest]
        results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    per_image = [result["cpu_seconds"] / result["images"] for result in results]
    hours = round(per_image[-1] * 10_000 / 3600, 1)
    print(json.dumps({"results": results, "cpu_seconds_per_image": per_image, "hours_for_10000": hours}, indent=2))


if __name__ == "__main__":
    main()
