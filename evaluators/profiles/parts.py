"""The radii of a profile, measured in parts of the images. Each part is stored at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.engine.batches import forward
from evaluators.engine.noise import ImageNoise
from evaluators.engine.prepared import PreparedNetwork
from evaluators.engine.scores_only import why_no_gradients
from evaluators.logits.margin import Margins, join_margins, margins_of
from evaluators.norms import Linf
from evaluators.profiles.passes import stage_of
from evaluators.profiles.stored_parts import StoredParts, StoredPartsError
from evaluators.profiles.workload import Workload
from evaluators.radius.measure import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from evaluators.attacks import Attack
    from evaluators.curves.error_curves import Floats
    from evaluators.engine.batches import Batches
    from evaluators.norms import Norm
    from evaluators.profiles.stored_parts import Arrays
    from evaluators.radius.grid import EpsilonGrid
    from evaluators.radius.progress import Progress

# Number of images of a part: eight passes through the network, within these limits. Fewer images use the batches badly. More
# would lose more work at an interruption.
PASSES, FEWEST, MOST = 8, 256, 1024
# Largest change of a logit, relative to the largest logit, that rounding on another machine explains. Largest change of most
# gradients, relative to their lengths: they change more where an activation is near a kink.
ROUNDING, ROUNDING_OF_GRADIENTS = 1e-4, 1e-2
# Number of images around which logits and gradients are stored, and the size of the noise there, in pixel units.
PROBED, NOISE = 8, 0.05


@final
@dataclass(frozen=True)
class Parts:
    """The parts of the images of one profile.

    Attributes:
        prepared: The network and all N images.
        stored: Files of the parts.
        workload: Progress of the profile, with the stages `margins` and those of the attacks, by `stage_of`.
        spans: The images of each part.
    """

    prepared: PreparedNetwork
    stored: StoredParts
    workload: Workload
    spans: tuple[slice, ...]


def open_spans(stored: StoredParts, batches: Batches, n: int) -> tuple[slice, ...]:
    """Returns the images of each part of n images. An interrupted profile keeps its parts, also on another device.

    Raises:
        StoredPartsError: a file cannot be written.
    """
    arrays = stored.read("spans", {"size": ()})
    size = min(max(PASSES * batches.size, FEWEST), MOST) if arrays is None else max(1, int(arrays["size"]))
    if arrays is None:
        stored.write("spans", {"size": np.array(size)})
    return tuple(slice(start, min(start + size, n)) for start in range(0, n, size))


def with_stored_logits(prepared: PreparedNetwork, stored: StoredParts) -> PreparedNetwork:
    """Returns the prepared network with the clean logits of the interrupted profile, if there are any. Else stores its own.

    Logits of another device can differ by rounding. The stored radii belong to the stored logits. Logits and gradients near
    a few images show whether the code of the network has changed, even if the clean logits have not.

    Args:
        prepared: The network and its N images.
        stored: Files of the parts.

    Raises:
        StoredPartsError: the logits or the gradients differ by more than rounding, or a file cannot be written.
    """
    if stored.folder is None:
        return prepared
    own = {"logits": prepared.logits, **_probe(prepared)}
    arrays = stored.read("logits", {name: tuple(tensor.shape) for name, tensor in own.items()})
    if arrays is None:
        # In double precision, because numpy has no bfloat16.
        stored.write("logits", {name: tensor.double().cpu().numpy() for name, tensor in own.items()})
        return prepared
    before = {name: torch.from_numpy(arrays[name]).to(tensor) for name, tensor in own.items()}
    same = all(
        float((before[name] - own[name]).abs().max()) <= ROUNDING * float(own[name].abs().max())
        for name in ("logits", "near_logits")
    )
    changes = (before["near_gradients"] - own["near_gradients"]).flatten(1).norm(dim=1)
    lengths = own["near_gradients"].flatten(1).norm(dim=1)
    if not same or not float((changes - ROUNDING_OF_GRADIENTS * lengths).median()) <= 0:
        raise StoredPartsError(
            f"{stored.folder}: the network has other logits or gradients than those stored; it is another network, or gives "
            f"random logits; choose another folder, or delete {stored.folder}"
        )
    return replace(prepared, logits=before["logits"])


def _probe(prepared: PreparedNetwork) -> dict[str, Tensor]:
    """Returns logits at noisy versions of the first P images, (P, K), and the gradients of the largest ones, (P, ...).

    The gradients are zero if the network has none.
    """
    x = prepared.x[:PROBED]
    uniform = ImageNoise.of(0, torch.arange(len(x), device=x.device)).uniform(x)
    points = (x + NOISE * (2 * uniform - 1)).clamp(0, 1)
    network, labels, one_pass = prepared.network, prepared.y[:PROBED], prepared.batches.size
    gradients = torch.zeros_like(points)
    if why_no_gradients(network) is None:
        oracle = GradientOracle(network, x, labels, Linf(), x.new_ones(len(x)), keep="nothing", one_pass=one_pass)
        gradients = oracle.gradient(points, _largest_logit)
    return {"near_logits": forward(network, points, one_pass).nan_to_num(), "near_gradients": gradients}


def _largest_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the largest of the logits (N, K) of each image, (N,), as a loss for `GradientOracle`. Ignores the labels."""
    return logits.amax(1)


def measure_margins(parts: Parts, norms: Sequence[Norm]) -> Margins:
    """Returns the margins of all images in the given norms.

    Raises:
        StoredPartsError: a file cannot be written.
    """
    classes = parts.prepared.logits.shape[1]
    measured = []
    for span in parts.spans:
        n = span.stop - span.start
        shapes: dict[str, tuple[int, ...]] = {
            "margin": (n,),
            "right": (n,),
            "entropy": (n,),
            "differences": (n, classes - 1),
        }
        shapes |= {f"gradient_norms/{norm.name}": (n, classes - 1) for norm in norms}
        shapes |= {f"radii/{norm.name}": (n,) for norm in norms}
        shapes |= {"zero_gradient_share": (), "seconds": ()}

        def work(progress: Progress, span: slice = span) -> Arrays:
            return _as_arrays(margins_of(parts.prepared.part(span), norms, progress=progress))

        arrays = _stored_or(parts, "margins", f"margins-{span.start:07}", n, shapes, work)
        measured.append(_as_margins(arrays, norms))
    return measured[0] if len(measured) == 1 else join_margins(measured)


def measure_radii(
    parts: Parts, attacks: Mapping[str, Attack], grids: Mapping[str, EpsilonGrid], seed: int
) -> dict[str, Floats]:
    """Returns the radii of all images, (N,), by name of the attack. Each part runs all attacks before the next part begins.

    Args:
        parts: The parts.
        attacks: Attacks by name.
        grids: Grid of each attack, by its name.
        seed: Seed of the random numbers.

    Raises:
        StoredPartsError: a file cannot be written.
    """
    radii = {name: np.empty(len(parts.prepared.x)) for name in attacks}
    for span in parts.spans:
        part, n = parts.prepared.part(span), span.stop - span.start
        for number, (name, attack) in enumerate(attacks.items()):
            fixed = {"epsilons": np.array(grids[name].epsilons)}
            shapes: dict[str, tuple[int, ...]] = {"radii": (n,), "epsilons": fixed["epsilons"].shape, "seconds": ()}

            def work(
                progress: Progress,
                part: PreparedNetwork = part,
                attack: Attack = attack,
                grid: EpsilonGrid = grids[name],
                fixed: Arrays = fixed,
            ) -> Arrays:
                return {"radii": measure(part, attack, grid, seed=seed, progress=progress).numpy(), **fixed}

            file = f"attack{number + 1}-{span.start:07}"
            radii[name][span] = _stored_or(parts, stage_of(name), file, n, shapes, work, fixed)["radii"]
    return radii


def _stored_or(
    parts: Parts,
    stage: str,
    file: str,
    images: int,
    shapes: Mapping[str, tuple[int, ...]],
    work: Callable[[Progress], Arrays],
    expected: Arrays | None = None,
) -> Arrays:
    """Returns the arrays of a stored part, or measures and stores them, with the seconds that this took.

    Args:
        parts: The parts.
        stage: Key of the stage.
        file: Name of the file.
        images: Number of images of the part.
        shapes: Names and shapes of the arrays of the file.
        work: Function of a progress that measures the arrays, all but `seconds`.
        expected: Values of some of the arrays. With other values, the part is measured again.

    Raises:
        StoredPartsError: the file cannot be written.
    """
    arrays = parts.stored.read(file, shapes, expected)
    if arrays is not None:
        parts.workload.restore(stage, images, float(arrays["seconds"]))
        return arrays
    arrays = work(parts.workload.start(stage, images))
    arrays = {**arrays, "seconds": np.array(parts.workload.add(stage, images))}
    parts.stored.write(file, arrays)
    return arrays


def _as_arrays(margins: Margins) -> Arrays:
    arrays: Arrays = {name: getattr(margins, name) for name in ("margin", "right", "entropy", "differences")}
    for name in ("gradient_norms", "radii"):
        arrays |= {f"{name}/{norm}": values for norm, values in getattr(margins, name).items()}
    return {**arrays, "zero_gradient_share": np.array(margins.zero_gradient_share)}


def _as_margins(arrays: Arrays, norms: Sequence[Norm]) -> Margins:
    return Margins(
        margin=arrays["margin"],
        right=arrays["right"],
        entropy=arrays["entropy"],
        differences=arrays["differences"],
        gradient_norms={norm.name: arrays[f"gradient_norms/{norm.name}"] for norm in norms},
        radii={norm.name: arrays[f"radii/{norm.name}"] for norm in norms},
        zero_gradient_share=float(arrays["zero_gradient_share"]),
    )
