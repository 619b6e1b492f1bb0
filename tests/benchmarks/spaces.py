"""Speed of search spaces: sampling, canonical forms, building networks, and counting parameters and multiply-accumulates.

    python tests/benchmarks/spaces.py [--parts rates,canonical,large] [--count 200] [--rounds 7]

Runs on one thread of the processor and prints one JSON object per part:

- rates: architectures per second, by space, for narrow networks and images of 32x32 pixels. The steps are sampling, the
  canonical form, building, and counting of parameters and of multiply-accumulates. `all` is all steps together, as a search
  does them before training.
- canonical: milliseconds for the canonical form of a random architecture: mean, median, 99th percentile and largest. Goals
  for the mean: under 1 ms for cell201, under 5 ms for nasnet and darts.
- large: milliseconds to build a darts network of 36 channels and 20 cells, and to count its multiply-accumulates at 32x32
  pixels. The numbers are medians over rounds, each with another architecture. Goal: under 150 ms.

The cache of canonical forms has no effect: all architectures are different, and the cache is cleared before each space.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import TYPE_CHECKING

import torch

from evaluators import macs, parameters
from search_spaces import SearchSpace, cell201, darts, macro, mlp, nasnet, robnet
from search_spaces.cells.canonical import canonical_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHAPE, CLASSES = (3, 32, 32), 10
SPACES: dict[str, SearchSpace] = {
    "cell201": cell201(16, 1, 3),
    "darts": darts(8, 5),
    "nasnet": nasnet(8, 1, 3),
    "robnet": robnet(8, 5),
    "robnet, each cell": robnet(8, 5, shared=False),
    "macro": macro(2),
    "mlp": mlp(),
}


def drawn(space: SearchSpace, count: int) -> list[dict]:
    """Returns `count` different random architectures, but at most half of the space."""
    generator, architectures = random.Random(0), {}
    while len(architectures) < min(count, space.size // 2):
        architecture = space.sample(generator)
        architectures[json.dumps(architecture)] = architecture
    return list(architectures.values())


def timed(function: Callable, items: Sequence) -> tuple[list[float], list]:
    """Returns the seconds that a function takes for each item, and its results."""
    seconds, results = [], []
    for item in items:
        started = time.perf_counter()
        results.append(function(item))
        seconds.append(time.perf_counter() - started)
    return seconds, results


def rates(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Returns architectures per second, by space and step."""
    return {name: rates_of(space, count) for name, space in SPACES.items()}


def rates_of(space: SearchSpace, count: int) -> dict[str, float]:
    """Returns architectures per second of one space, by step."""
    architectures = drawn(space, count)
    # Building and counting are slow, so they are measured on a quarter of the architectures.
    chosen = architectures[: max(1, count // 4)]
    canonical_cell.cache_clear()
    spent = {
        "sample": timed(space.sample, [random.Random(seed) for seed in range(count)])[0],
        "canonical": timed(space.canonical, architectures)[0],
    }
    space.build(chosen[0], SHAPE, CLASSES)
    spent["build"], networks = timed(lambda a: space.build(a, SHAPE, CLASSES), chosen)
    spent["parameters"] = timed(parameters, networks)[0]
    macs(networks[0], SHAPE)  # The first pass is slower, because torch loads modules.
    spent["macs"] = timed(lambda network: macs(network, SHAPE), networks)[0]
    means = {what: statistics.mean(seconds) for what, seconds in spent.items()}
    return {what: round(1 / mean, 1) for what, mean in (means | {"all": sum(means.values())}).items()}


def canonical(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Returns statistics of the milliseconds for a canonical form, by space."""
    milliseconds = {}
    for name, space in SPACES.items():
        architectures = drawn(space, 10 * count)
        canonical_cell.cache_clear()
        spent = [1000 * s for s in timed(space.canonical, architectures)[0]]
        milliseconds[name] = {
            "mean": round(statistics.mean(spent), 3),
            "median": round(statistics.median(spent), 3),
            "99 %": round(statistics.quantiles(spent, n=100)[-1], 3),
            "most": round(max(spent), 3),
            "architectures": len(spent),
        }
    return milliseconds


def large(count: int, rounds: int) -> dict[str, float]:
    """Returns the median milliseconds for a darts network of the published size, by step."""
    space = darts(36, 20)
    architectures = drawn(space, rounds + 1)
    macs(space.build(architectures.pop(), SHAPE, CLASSES), SHAPE)
    build, networks = timed(lambda a: space.build(a, SHAPE, CLASSES), architectures)
    counting, _ = timed(lambda network: macs(network, SHAPE), networks)
    whole = [a + b for a, b in zip(build, counting, strict=True)]
    spent = {"build": build, "macs": counting, "both": whole}
    return {name: round(1000 * statistics.median(seconds), 1) for name, seconds in spent.items()}


PARTS = {"rates": rates, "canonical": canonical, "large": large}


def main() -> None:
    """Prints the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--count", type=int, default=200, help="architectures per space; ten times as many for canonical")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts.split(","):
        print(json.dumps({"part": name, **PARTS[name](options.count, options.rounds)}), flush=True)


if __name__ == "__main__":
    main()
