"""Comparison of several networks on the same images: error curves, paired tests, transferability and disagreement."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from evaluators import compare, compare_radii, fit_power_law, margins
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_epsilons
from evaluators.engine.prepared import predict, prepare
from evaluators.engine.scores_only import why_no_gradients
from evaluators.logits.margin import adaptive_epsilons
from evaluators.radius.measure import measure
from evaluators.regions import Sampling, disagreement
from evaluators.regions.sampling import affordable_samples
from evaluators.statistics.multiple_testing import holm
from evaluators.transferability.matrix import TooFewImagesError, TransferMatrix, right_under_all, transfer_matrix
from nas.analysis.compare.config import CompareConfig, default_attacks, parse_compare_config
from nas.analysis.compare.crafting import crafting_attacks
from nas.analysis.compare.result import NetworkComparison, NoTransfer, PairTest
from nas.analysis.fit import check_compatible
from nas.analysis.network_source import (
    bundle_data,
    check_distinct,
    name_networks,
    open_source,
    searched_epsilons,
    searched_norm,
)
from nas.analysis.networks.options import NetworkOptions
from nas.analysis.score_attacks import suited_attacks
from nas.analysis.several_networks import options_of_each
from nas.data import open_test
from nas.device import open_device, set_threads
from nas.errors import ConfigError, HardcellError, NetworkError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from evaluators import Attack
    from evaluators.curves.error_curves import Floats
    from nas.analysis.network_source import Openable
    from nas.data import Split

    Progress = Callable[[str, float], None]

# Relative distances. A point of the grid is dropped if it is within `SAME_EPSILON` of an epsilon of the tests. A quartile of
# the first-order radii (estimated from gradients at the clean images) becomes an epsilon of the tests, unless it is within
# `DISTINCT_EPSILON` of another epsilon of the tests.
SAME_EPSILON, DISTINCT_EPSILON = 0.05, 0.3
# Disagreement: number of images, number of points in each ball, and radii of the balls in multiples of one epsilon.
# Balls around large images have fewer points, because drawing points is slow.
BALLS, BALL_SAMPLES, BALL_RADII = 50, 40, (0.0, 0.5, 1.0, 2.0)


def compare_networks(
    sources: Sequence[Openable],
    config: CompareConfig | None = None,
    *,
    names: Sequence[str] = (),
    progress: Progress | None = None,
    options: NetworkOptions | Sequence[NetworkOptions] = NetworkOptions(),
    trust: bool = False,
) -> NetworkComparison:
    """Returns the comparison of several networks on test images.

    The radii of all networks are measured on one grid, the union of the grids chosen for each network. Radii are rounded up
    to the grid. On a coarser or shorter grid than the others, a network would therefore look more robust than it is.

    Args:
        sources: At least two networks: paths, names, modules or `NetworkSource`, as for `open_source`. A network maps images
            (N, C, H, W) with pixels in [0, 1] to logits (N, K). Modules are set to evaluation mode and moved to the device.
        config: Settings; None for the data and norm of the bundles. Without gradients, `score_attacks` are the default.
        names: Display name of each network; empty for the names of bundles and files.
        progress: Called with the current stage and the completed share of all work, in [0, 1].
        options: Options with which the networks are opened: one for all, or one for each. See `options_of_each`.
        trust: Run code that comes with a bundle or a .pt2 file.

    Raises:
        NetworkError: there are fewer than two networks, or a network is given twice; a network cannot be opened, is not
            compatible with the images or the other networks, or fails under attack.
        BundleError: a bundle is damaged.
        ConfigError: the names do not match the networks, an epsilon is missing or too large for the images, an attack needs
            gradients that a network does not have, or there is neither a config nor a bundle.
        DataError: the images cannot be opened.
        RunError: the device does not exist.

    Example:
        >>> import nas
        >>> from evaluators import PGD
        >>> networks = [bundle.folder for bundle in nas.read_run("runs/digits").bundles]
        >>> config = nas.CompareConfig(attacks={"pgd": PGD()}, epsilons=(0.1,), images=100)
        >>> comparison = nas.compare(networks[:2], config)
        >>> comparison.at_epsilon[0].verdict in ("more robust", "less robust", "not distinguishable")
        True
    """
    each = options_of_each(sources, options)
    check_distinct(sources, names, each)
    opened = [open_source(source, options=one, trust=trust) for source, one in zip(sources, each, strict=True)]
    by_name = name_networks(opened, names)
    if config is None:
        data = parse_compare_config({"data": bundle_data(opened)}).data
        config = CompareConfig(data=data, attacks=default_attacks(searched_norm(opened)))
    default = default_attacks(next(iter(config.attacks.values())).norm.name)
    config = replace(config, attacks=suited_attacks(opened, config.attacks, default))
    networks = {name: source.network for name, source in by_name.items()}
    named = {name: source.name for name, source in by_name.items()}
    device = open_device(config.device)
    test = open_test(config.data).first(config.images).to(device)
    set_threads(config.threads, test.x[0, 0].numel())
    _check_epsilons(config, test)
    for name, network in networks.items():
        check_compatible(named[name], network.to(device), test, config.data.path or config.data.name)
    missing = _clean_pass(named, networks, test)
    differentiable = {name: network for name, network in networks.items() if why_no_gradients(network) is None}
    crafting = crafting_attacks(config.attacks, gradients=len(differentiable) == len(networks))
    transfers: dict[str, TransferMatrix | NoTransfer] = {} if missing is None else dict.fromkeys(crafting, missing)
    left = [name for name in crafting if name not in transfers]
    stages = [*(f"first-order radii of {name}" for name in named), *named, *(f"transfer by {name}" for name in left)]
    stages.append("disagreement")

    def part(stage: str) -> Callable[[float], None]:
        before = stages.index(stage)
        return lambda share: None if progress is None else progress(stage, (before + share) / len(stages))

    norm = next(iter(config.attacks.values())).norm
    first_order = {}
    if not (differentiable or config.epsilons or searched_epsilons(opened, norm.name)):
        raise ConfigError(["--epsilon (epsilons) must be given, because no network has gradients from which to choose"])
    for name, network in differentiable.items():
        part(f"first-order radii of {name}")(0.0)
        with error_context(named[name]):
            first_order[name] = margins(network, test.x, test.y, [norm]).radii[norm.name]
    largest = norm.largest(test.x[0].numel())
    chosen = config.epsilons or _choose_epsilons(first_order, searched_epsilons(opened, norm.name), largest)
    epsilons = sorted(set(chosen))
    grid = common_grid(first_order, largest, sorted({*epsilons, *config.include}))
    radii = {}
    for name, network in networks.items():
        with error_context(named[name]):
            radii[name] = _worst_case(network, test, config, grid, part(name))
    for name in left:
        with error_context("transfer"):
            transfers[name] = _transfer(networks, test, crafting[name], epsilons, config.seed, part(f"transfer by {name}"))
    part("disagreement")(0.0)
    with error_context("disagreement"):
        centres, sizes = test.x[:BALLS], sorted({min(multiple * chosen[0], largest) for multiple in BALL_RADII})
        points = affordable_samples(norm, centres[0].numel(), len(centres) * len(sizes), BALL_SAMPLES)
        parted = disagreement(
            list(networks.values()), centres, norm, sizes, sampling=Sampling(samples=points, seed=config.seed)
        )
    return NetworkComparison(
        sources=named,
        data=config.data.name,
        data_hash=test.hash,
        attacks=config.attacks,
        epsilons=tuple(epsilons),
        grid=tuple(grid),
        radii=radii,
        laws={name: fit_power_law(of_network, grid) for name, of_network in radii.items()},
        at_epsilon=tests_at_epsilon(radii, epsilons),
        over_all=tests_over_all(radii),
        transfers=transfers,
        disagreement=parted,
        seed=config.seed,
    )


def _check_epsilons(config: CompareConfig, test: Split) -> None:
    norm = next(iter(config.attacks.values())).norm
    try:
        check_epsilons(sorted({*(config.epsilons or (0.0,)), *config.include}), norm.largest(test.x[0].numel()))
    except ValueError as error:
        raise ConfigError([f"compare: epsilons: {error}"]) from error


def _clean_pass(named: Mapping[str, str], networks: Mapping[str, nn.Module], test: Split) -> NoTransfer | None:
    """Returns a reason if all networks classify too few images correctly to measure transfer; else None. Runs no attack.

    Raises:
        NetworkError: the networks have different numbers of logits, or a network fails on the images.
    """
    logits = {}
    for name, network in networks.items():
        with error_context(named[name]), frozen(network):
            logits[name] = predict(network, test.x)
    classes = {name: outputs.shape[1] for name, outputs in logits.items()}
    if len(set(classes.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in classes.items())
        raise NetworkError(f"the networks must have the same classes, got different numbers of logits: {counts}")
    try:
        right_under_all({name: outputs.argmax(1) == test.y for name, outputs in logits.items()})
    except TooFewImagesError as error:
        return NoTransfer(str(error))
    return None


def _transfer(
    networks: Mapping[str, nn.Module],
    test: Split,
    attack: Attack,
    epsilons: Sequence[float],
    seed: int,
    progress: Callable[[float], None],
) -> TransferMatrix | NoTransfer:
    try:
        return transfer_matrix(networks, test.x, test.y, attack, epsilons, seed=seed, progress=progress)
    except TooFewImagesError as error:  # Rounding may differ from that of `_clean_pass` and change predictions.
        return NoTransfer(str(error))


@contextmanager
def error_context(source: str) -> Iterator[None]:
    """Converts errors of a measurement to NetworkError with the name of the network or the measurement."""
    try:
        yield
    except HardcellError:
        raise
    except Exception as error:  # A custom network may raise any error on any image.
        raise NetworkError(f"{source}: cannot be measured: {first_line(error)}") from error


def _choose_epsilons(first_order: Mapping[str, Floats], wanted: Sequence[float], largest: float) -> list[float]:
    """Returns the wanted epsilons and the rounded quartiles of all first-order radii, without near duplicates."""
    pooled = np.concatenate(list(first_order.values()))
    usable = pooled[(pooled > 0) & np.isfinite(pooled)]
    chosen = list(wanted)
    for share in (0.5, 0.25, 0.75) if len(usable) else ():
        epsilon = min(float(f"{np.quantile(usable, share):.1g}"), largest)
        if not any(math.isclose(epsilon, other, rel_tol=DISTINCT_EPSILON) for other in chosen):
            chosen.append(epsilon)
    return chosen or [largest]  # There are no usable radii if, for example, all gradients are zero.


def common_grid(first_order: Mapping[str, Floats], largest: float, epsilons: Sequence[float]) -> list[float]:
    """Returns the common grid of networks: the union of the grids chosen for each network, and the wanted epsilons.

    Args:
        first_order: First-order radii, (N,), by network, in pixel units.
        largest: Size of the pixel range in the norm, in pixel units.
        epsilons: Wanted epsilons, in pixel units. Each replaces the grid points near it.
    """
    suited = {epsilon for radii in first_order.values() for epsilon in adaptive_epsilons(radii, largest)}
    apart = {e for e in suited if not any(math.isclose(e, wanted, rel_tol=SAME_EPSILON) for wanted in epsilons)}
    return sorted({*apart, *epsilons})


def _worst_case(
    network: nn.Module, test: Split, config: CompareConfig, grid: Sequence[float], progress: Callable[[float], None]
) -> Floats:
    """Returns each image's smallest radius over the attacks, (N,).

    An attack tries only epsilons below the smallest radius that the earlier attacks found.
    """
    known = None
    with prepare(network, test.x, test.y, attempts=len(grid) * len(config.attacks)) as prepared:
        for place, attack in enumerate(config.attacks.values()):
            known = measure(
                prepared,
                attack,
                grid,
                seed=config.seed,
                known=known,
                progress=lambda share, place=place: progress((place + share) / len(config.attacks)),  # type: ignore[misc]
            )
    assert known is not None
    return known.numpy()


def tests_at_epsilon(radii: Mapping[str, Floats], epsilons: Sequence[float]) -> tuple[PairTest, ...]:
    """Returns the paired tests of all pairs of networks at each epsilon, with Holm's correction over all these tests.

    Args:
        radii: Radii, (N,), by network, on the same images.
        epsilons: Epsilons, in pixel units.
    """
    cells = [(a, b, epsilon) for epsilon in epsilons for a, b in combinations(radii, 2)]
    tests = [compare(radii[a], radii[b], epsilon) for a, b, epsilon in cells]
    corrected = holm([one.p_value for one in tests])
    return tuple(PairTest(*cell, one, float(p)) for cell, one, p in zip(cells, tests, corrected, strict=True))


def tests_over_all(radii: Mapping[str, Floats]) -> tuple[PairTest, ...]:
    """Returns the paired tests of the radii of all pairs of networks, with Holm's correction over all pairs.

    Args:
        radii: Radii, (N,), by network, on the same images.
    """
    pairs = list(combinations(radii, 2))
    tests = [compare_radii(radii[a], radii[b]) for a, b in pairs]
    corrected = holm([one.p_value for one in tests])
    return tuple(PairTest(a, b, None, one, float(p)) for (a, b), one, p in zip(pairs, tests, corrected, strict=True))
