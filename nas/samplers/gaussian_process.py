"""Additive Gaussian process on architectures, with several distances.

A view is a distance of two architectures. The views are: the number of different choices, the differences in rank between
the values of numeric choices, the operations of the cells, the wiring of the operations, and the paths of operations from
input to output. Each view has one process with a long and one with a short length scale. Their variances and the noise
variance maximise the marginal likelihood times a prior. So views that do not explain the measurements get small variances.

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, sections 2.2 and 5.4. Wiring: Ru
et al., "Interpretable Neural Architecture Search via Bayesian Optimisation with Weisfeiler-Lehman Kernels", ICLR 2021,
arXiv:2006.07556. Paths: White et al., "BANANAS", AAAI 2021, arXiv:1910.11858. Tanimoto similarity: Ralaivola et al., "Graph
kernels for chemical informatics", 2005.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from search_spaces import path_encoding

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from search_spaces import Architecture, CellGraph, SearchSpace

    Floats = NDArray[np.float64]
    Edge = tuple[int, int, str]

# Inverse length scales of the two processes of a view, in units of 1 / mean distance in the view.
RATES = (0.1, 1.0)
LONGEST_PATH = 3
WIRING_DEPTH = 3
# Normal prior of the log variances. It is wide, but needed: few measurements do not determine the variances.
PRIOR_MEAN, PRIOR_PRECISION = -2.0, 0.04
# Bounds of the log variances.
LOG_WEIGHTS = (-9.0, 3.0)
ITERATIONS = 30
# Keeps the covariance positive definite if two architectures have distance 0 in all views.
JITTER = 1e-6


@final
@dataclass(frozen=True)
class AdditiveGP:
    """Posterior of one target, given measurements at T architectures, with V views.

    Attributes:
        mean: Mean of the measurements.
        std: Standard deviation of the measurements; 1 if all are equal.
        variances: Variances of the processes and of the noise, (2V + 1,), in units of std squared.
        lengthscales: Mean distance in each view, (V,).
        cholesky: Lower triangular factor of the covariance of the measurements, (T, T).
        alpha: Inverse covariance times the standardised measurements, (T,).
    """

    mean: float
    std: float
    variances: Floats
    lengthscales: Floats
    cholesky: Floats
    alpha: Floats

    @property
    def noise(self) -> float:
        """Standard deviation of the measurement noise, in units of the target."""
        return float(self.std * np.sqrt(self.variances[-1]))

    def predict(self, distances: Floats) -> tuple[Floats, Floats]:
        """Returns mean and standard deviation without noise, (A,) each, given distances to the measurements, (V, A, T)."""
        covariance = np.tensordot(self.variances[:-1], _kernels(distances, self.lengthscales), 1)
        explained = lapack.dtrtrs(self.cholesky, covariance.T, lower=1)[0]
        variance = np.maximum(self.variances[:-1].sum() - (explained**2).sum(0), 1e-10)
        return self.mean + self.std * (covariance @ self.alpha), self.std * np.sqrt(variance)


def fit(distances: Floats, values: Floats) -> AdditiveGP:
    """Returns the Gaussian process fitted to T measurements.

    Args:
        distances: Distances of the measured architectures in each view, (V, T, T).
        values: Measurements, finite, (T,).
    """
    mean, std = float(values.mean()), float(values.std()) or 1.0
    target = (values - mean) / std
    lengthscales = distances.mean((1, 2))
    lengthscales[lengthscales <= 0] = 1.0
    kernels = _kernels(distances, lengthscales)
    flat = kernels.reshape(len(kernels), -1)

    def loss(logs: Floats) -> tuple[float, Floats]:
        """Returns the negative log posterior of the variances, up to a constant, and its gradient."""
        variances = np.exp(logs)
        cholesky = _cholesky(flat, variances)
        alpha = lapack.dpotrs(cholesky, target, lower=1)[0]
        inverse = lapack.dpotri(cholesky, lower=1)[0]
        inverse += np.tril(inverse, -1).T
        slopes = 0.5 * (inverse - np.outer(alpha, alpha))
        gradient = np.append(flat @ slopes.ravel(), np.trace(slopes)) * variances + PRIOR_PRECISION * (logs - PRIOR_MEAN)
        prior = 0.5 * PRIOR_PRECISION * ((logs - PRIOR_MEAN) ** 2).sum()
        return float(0.5 * target @ alpha + np.log(np.diag(cholesky)).sum() + prior), gradient

    start = np.full(len(flat) + 1, -np.log(len(flat)))
    bounds = [LOG_WEIGHTS] * len(start)
    optimum = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
    variances = np.exp(optimum.x)
    cholesky = _cholesky(flat, variances)
    return AdditiveGP(mean, std, variances, lengthscales, cholesky, lapack.dpotrs(cholesky, target, lower=1)[0])


def _kernels(distances: Floats, lengthscales: Floats) -> Floats:
    """Returns the kernels of the processes with variance 1, (2V, A, T)."""
    relative = distances / lengthscales[:, None, None]
    return np.concatenate([np.exp(-rate * relative) for rate in RATES])


def _cholesky(flat: Floats, variances: Floats) -> Floats:
    """Returns the lower triangular factor (T, T) of a weighted sum of kernels (2V, T * T) plus noise."""
    size = round(flat.shape[1] ** 0.5)
    covariance = (variances[:-1] @ flat).reshape(size, size)
    covariance[np.diag_indices(size)] += variances[-1] + JITTER * variances.sum()
    cholesky, failed = lapack.dpotrf(covariance, lower=1, clean=1)
    assert not failed, "sums of positive semidefinite kernels, and the jitter, are positive definite"
    return np.asarray(cholesky)


def distances_to(space: SearchSpace, architectures: Sequence[Architecture], first: int) -> Floats:
    """Returns the distances of A architectures to the first T of them in each view, (V, A, T).

    Args:
        space: The search space.
        architectures: A architectures.
        first: T, the number of reference architectures.
    """
    if space.graphs is None:
        # Canonical forms do not differ in choices without effect. In spaces with cells, the views of
        # operations, wiring and paths ignore such choices: they use only edges on a path from an input to an output.
        return np.stack(_choice_distances(space, [space.canonical(architecture) for architecture in architectures], first))
    cells = [space.graphs(architecture) for architecture in architectures]
    live = [{name: _live_edges(graph) for name, graph in row.items()} for row in cells]
    wiring = [_wiring_features(*row) for row in zip(cells, live, strict=True)]
    counts: list[Counter[tuple[Hashable, ...]]] = [
        Counter({feature: count for feature, count in row.items() if len(feature) == 2}) for row in wiring
    ]
    views = [*_choice_distances(space, architectures, first), np.sqrt(_squared_distances(_feature_matrix(counts), first))]
    views.append(_tanimoto_distances(_feature_matrix(wiring), first))
    if space.operations:
        paths = path_encoding(space, architectures, LONGEST_PATH)
        views.append(_tanimoto_distances(paths[:, paths.any(0)], first))
    return np.stack(views)


def _choice_distances(space: SearchSpace, architectures: Sequence[Architecture], first: int) -> list[Floats]:
    """Returns the view of the number of different choices, and the view of ranks if the two views differ.

    They differ if some choice has more than two values, and all of its values are numbers.
    """
    nominal, ordinal = [], []
    for name, choice in space.choices.items():
        place = {(type(value), value): number for number, value in enumerate(choice.values)}
        places = np.array([place[type(row[name]), row[name]] for row in architectures])
        count = len(choice.values)
        nominal.append(np.eye(count)[places] / np.sqrt(2))
        numbers = [value for value in choice.values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) == count > 2:
            steps = np.argsort(np.argsort(numbers))[places]
            ordinal.append((steps[:, None] > np.arange(count - 1)) / np.sqrt(count - 1))
        else:
            ordinal.append(nominal[-1])
    differing = any(a is not b for a, b in zip(nominal, ordinal, strict=True))
    return [_squared_distances(np.hstack(columns), first) for columns in [nominal] + [ordinal] * differing]


def _live_edges(graph: CellGraph) -> list[Edge]:
    """Returns the edges on a path from an input to the output, ordered by node."""
    edges = [edge for edge in graph.edges() if edge[2] != "none"]
    reached, needed = set(range(graph.inputs)), set(graph.outputs)
    for source, node, _ in edges:
        if source in reached:
            reached.add(node)
    for source, node, _ in reversed(edges):
        if node in needed:
            needed.add(source)
    return [edge for edge in edges if edge[0] in reached and edge[1] in needed]


def _wiring_features(cells: Mapping[str, CellGraph], live: Mapping[str, list[Edge]]) -> Counter[tuple[Hashable, ...]]:
    """Returns counts of operations, (cell, operation), and of Weisfeiler-Lehman labels, (cell, depth or "output", label)."""
    counts: Counter[tuple[Hashable, ...]] = Counter()
    for cell, graph in cells.items():
        feeding: dict[int, list[tuple[str, int]]] = {}
        for source, node, operation in live[cell]:
            feeding.setdefault(node, []).append((operation, source))
            counts[cell, operation] += 1
        seen: dict[int, Hashable] = {node: f"input {node}" for node in range(graph.inputs)}
        for depth in range(WIRING_DEPTH):
            # The entries of a label are sorted, so that equal neighbourhoods have equal labels.
            new = {n: str(sorted((o, str(seen.get(s))) for o, s in summands)) for n, summands in feeding.items()}
            seen = {**seen, **new}
            counts.update((cell, depth, label) for label in new.values())
        counts.update((cell, "output", seen.get(node)) for node in graph.outputs)
    return counts


def _feature_matrix(rows: Sequence[Counter[tuple[Hashable, ...]]]) -> Floats:
    """Returns counts of features as a table (A, F), with at least one column."""
    columns = {feature: column for column, feature in enumerate(dict.fromkeys(f for row in rows for f in row))}
    table = np.zeros((len(rows), max(1, len(columns))))
    for number, row in enumerate(rows):
        for feature, count in row.items():
            table[number, columns[feature]] = count
    return table


def _squared_distances(table: Floats, first: int) -> Floats:
    """Returns the squared Euclidean distances (A, T) of rows (A, F) to the first T of them."""
    norms = (table**2).sum(1)
    return np.asarray(np.maximum(norms[:, None] + norms[:first] - 2 * table @ table[:first].T, 0))


def _tanimoto_distances(table: Floats, first: int) -> Floats:
    """Returns 1 minus the Tanimoto similarity (A, T) of rows (A, F) to the first T of them."""
    norms, common = (table**2).sum(1), table @ table[:first].T
    union = norms[:, None] + norms[:first] - common
    return np.asarray(1 - np.divide(common, union, out=np.ones_like(common), where=union > 0))
