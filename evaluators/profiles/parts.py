"""The radii of a profile, measured in parts of the images. Each part is stored at once."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evaluators.engine.prepared import PreparedNetwork
from evaluators.logits.margin import Margins, join_margins, margins_of
from evaluators.profiles.passes import stage_of
from evaluators.profiles.stored_parts import StoredParts, StoredPartsError
from evaluators.profiles.workload import Workload
from evaluators.radius.measure import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
# Largest change of a logit, relative to the largest logit, that rounding on another machine explains.
ROUNDING = 1e-3


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
    """Returns the images of each part of n images. An interrupted profile keeps its parts, also on another device."""
    arrays = stored.read("spans", {"size": ()})
    size = min(max(PASSES * batches.size, FEWEST), MOST) if arrays is None else int(arrays["size"])
    if arrays is None:
        stored.write("spans", {"size": np.array(size)})
    return tuple(slice(start, min(start + size, n)) for start in range(0, n, size))


def with_stored_logits(prepared: PreparedNetwork, stored: StoredParts) -> PreparedNetwork:
    """Returns the prepared network with the clean logits of the interrupted profile, if there are any. Else stores its own.

    Logits of another device can differ by rounding. The stored radii belong to the stored logits.

    Raises:
        StoredPartsError: the logits differ by more than rounding.
    """
    own = prepared.logits
    arrays = stored.read("logits", {"logits": tuple(own.shape)})
    if arrays is None:
        # In double precision, because numpy has no bfloat16.
        stored.write("logits", {"logits": own.double().cpu().numpy()})
        return prepared
    logits = torch.from_numpy(arrays["logits"]).to(own)
    difference = float((logits - own).abs().max())
    if not difference <= ROUNDING * float(own.abs().max()):
        raise StoredPartsError(
            f"{stored.folder}: the stored logits of the network differ from those now by up to {difference:.3g}; it is "
            f"another network or gives random logits; choose another folder, or delete {stored.folder}"
        )
    return replace(prepared, logits=logits)


def measure_margins(parts: Parts, norms: Sequence[Norm]) -> Margins:
    """Returns the margins of all images in the given norms."""
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
    """
    radii = {name: np.empty(len(parts.prepared.x)) for name in attacks}
    for span in parts.spans:
        part, n = parts.prepared.part(span), span.stop - span.start
        for number, (name, attack) in enumerate(attacks.items()):
            grid = grids[name]
            shapes: dict[str, tuple[int, ...]] = {"radii": (n,), "epsilons": (len(grid.epsilons),), "seconds": ()}

            def work(progress: Progress, attack: Attack = attack, grid: EpsilonGrid = grid) -> Arrays:
                measured = measure(part, attack, grid, seed=seed, progress=progress).numpy()  # noqa: B023
                return {"radii": measured, "epsilons": np.array(grid.epsilons)}

            arrays = _stored_or(parts, stage_of(name), f"attack{number + 1}-{span.start:07}", n, shapes, work)
            radii[name][span] = arrays["radii"]
    return radii


def _stored_or(
    parts: Parts,
    stage: str,
    file: str,
    images: int,
    shapes: Mapping[str, tuple[int, ...]],
    work: Callable[[Progress], Arrays],
) -> Arrays:
    """Returns the arrays of a stored part, or measures and stores them, with the seconds that this took."""
    arrays = parts.stored.read(file, shapes)
    if arrays is not None:
        parts.workload.add(stage, images, float(arrays["seconds"]))
        return arrays
    started = time.perf_counter()
    arrays = work(parts.workload.start(stage, images))
    seconds = time.perf_counter() - started
    arrays = {**arrays, "seconds": np.array(seconds)}
    parts.stored.write(file, arrays)
    parts.workload.add(stage, images, seconds)
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
