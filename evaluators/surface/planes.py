"""Response surfaces: what a network answers in a plane through an image.

The plane is spanned by two perturbations, adversarial or random, or goes through three images. Its basis is orthonormal, so
that distances in it are L2 distances between images, in pixel units; what spans it is marked where it truly lies.

Source of the idea: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface
and Uncertainty Regions", arXiv:2107.00003. The definitions are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.curves.error_curves import Floats
from evaluators.surface.directions import check_image
from evaluators.surface.responses import responses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

# Below this sine of the angle between two directions, the one's part across the other is the rounding of float32 pixels.
PARALLEL = 1e-4


@final
@dataclass(frozen=True)
class Plane:
    """A plane in the space of images, with an orthonormal basis.

    Attributes:
        origin: The image where both coordinates are 0, (C, H, W).
        across: Direction of length 1 of the first coordinate, (C, H, W).
        up: Direction of length 1 of the second, at right angles to the first, (C, H, W).
        marks: Coordinates (across, up) of the images that span the plane, by name.
        axes: What `across` and `up` lead along.
    """

    origin: Tensor = field(repr=False)
    across: Tensor = field(repr=False)
    up: Tensor = field(repr=False)
    marks: dict[str, tuple[float, float]]
    axes: tuple[str, str]


@final
@dataclass(frozen=True)
class Surface:
    """A network's answers on a grid in a plane. Arrays are (A, B), first index across, second up.

    Attributes:
        across: First coordinates, (A,), L2 distances in pixel units.
        up: Second coordinates, (B,), likewise.
        label: The network's class, int64.
        margin: Logit of the true label minus the largest other: negative where the point is misclassified.
        confidence: Largest softmax.
        inside: Whether all pixels of the point are in [0, 1], bool: elsewhere it is no image.
        marks: Coordinates (across, up) of the images that span the plane, by name.
        axes: What the coordinates lead along.
    """

    across: Floats
    up: Floats
    label: NDArray[np.int64]
    margin: Floats
    confidence: Floats
    inside: NDArray[np.bool_]
    marks: dict[str, tuple[float, float]]
    axes: tuple[str, str]


def plane_along(
    image: Tensor,
    first: Tensor,
    second: Tensor,
    names: tuple[str, str, str] = ("clean", "adversarial", "random"),
    axes: tuple[str, str] = ("along the adversarial direction", "at right angles, towards the random one"),
) -> Plane:
    """Returns the plane through an image (C, H, W) along two perturbations of it, (C, H, W) each.

    The first coordinate runs along the first perturbation; the second along what is left of the second perturbation at
    right angles to it.

    Args:
        image: Pixels in [0, 1]; the origin.
        first: Leads to the image marked by the second name.
        second: Leads to the image marked by the third.
        names: Of the image and of where the perturbations lead.
        axes: What the coordinates lead along.

    Raises:
        TypeError: image is not a tensor of floating point.
        ValueError: image is out of range, a perturbation has another shape, is not finite or is zero, or the two are
            parallel.
    """
    check_image(image)
    for name, step in zip(names[1:], (first, second), strict=True):
        if step.shape != image.shape:
            raise ValueError(f"{name} must have the shape of the image, {tuple(image.shape)}, got {tuple(step.shape)}")
        if not bool(torch.isfinite(step).all()):
            raise ValueError(f"{name} must be finite, got {'NaN' if bool(torch.isnan(step).any()) else 'infinity'}")
    # In double precision on the CPU: coordinates are to be true distances.
    one, other = (step.detach().cpu().double() for step in (first, second))
    length, reach = float(one.norm()), float(other.norm())
    if length == 0 or reach == 0:
        raise ValueError(
            f"{names[1] if length == 0 else names[2]} must differ from {names[0]}: the same image spans no plane"
        )
    across = one / length
    along = float((across * other).sum())
    rest = other - along * across
    height = float(rest.norm())
    if height <= PARALLEL * reach:
        raise ValueError(f"{', '.join(names)} lie on one line, which spans no plane; take another image or direction")
    marks = {names[0]: (0.0, 0.0), names[1]: (length, 0.0), names[2]: (along, height)}
    return Plane(image.detach(), across.to(image.dtype), (rest / height).to(image.dtype), marks, axes)


def plane_through(images: Tensor, names: tuple[str, str, str] = ("first", "second", "third")) -> Plane:
    """Returns the plane through three images, (3, C, H, W): the first coordinate runs from the first to the second.

    Margins in it refer to one label, mostly that of the first image.

    Raises:
        TypeError: images is not a tensor of floating point.
        ValueError: there are not three, they are out of range, two are equal, or they lie on one line.
    """
    if len(images) != 3:
        raise ValueError(f"a plane goes through 3 images, got {len(images)}")
    for image in images:
        check_image(image)
    origin, first, second = images.detach()
    if torch.equal(first, second):
        raise ValueError(f"{names[2]} must differ from {names[1]}: the same image spans no plane")
    # The difference of two float32 images is exact in double precision alone.
    one, other = (image.cpu().double() - origin.cpu().double() for image in (first, second))
    axes = (f"from {names[0]} to {names[1]}", f"at right angles, towards {names[2]}")
    return plane_along(origin, one, other, names, axes)


def window(plane: Plane, extent: float = 2.0, points: int = 61) -> tuple[Floats, Floats]:
    """Returns coordinates (P,) across and (P,) up of a square window of a plane, so that all its marks lie within.

    The window is centred on the box around the marks, and `extent` times as wide as the longer side of that box.

    Raises:
        ValueError: extent is below 1 or not finite, or points below 2.
    """
    if not extent >= 1:
        raise ValueError(f"extent must be at least 1, for all marks to lie in the window, got {extent:g}")
    if extent == np.inf:
        raise ValueError(f"extent must be finite, got {extent:g}")
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    places = np.array(list(plane.marks.values()))
    low, high = places.min(0), places.max(0)
    centre, half = (low + high) / 2, extent * float((high - low).max()) / 2
    return tuple(np.linspace(middle - half, middle + half, points) for middle in centre)  # type: ignore[return-value]


def response_surface(
    network: nn.Module,
    plane: Plane,
    label: int,
    across: Sequence[float] | Floats,
    up: Sequence[float] | Floats,
    *,
    batch_size: int | None = None,
) -> Surface:
    """Returns what a network answers at the points of a plane with coordinates across (A,) and up (B,).

    Costs one forward pass a point. Points outside the pixel range are asked about, too: `inside` tells them.

    Args:
        network: Maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K); left as it was.
        plane: On the network's device; `window` gives coordinates that suit it.
        label: The true label, to which margins refer.
        across: L2 distances from the origin along the first direction, in pixel units.
        up: The same along the second.
        batch_size: Points in one pass; found from the memory that one image needs if None.

    Raises:
        TypeError: network has the wrong type.
        ValueError: label is out of range, there are no coordinates or they are not finite, or the network's output is not
            (N, K) finite logits.
    """
    columns, rows = np.asarray(across, dtype=np.float64), np.asarray(up, dtype=np.float64)
    if columns.ndim != 1 or rows.ndim != 1 or not len(columns) or not len(rows):
        raise ValueError("across and up must be vectors of at least one coordinate")
    for name, coordinates in (("across", columns), ("up", rows)):
        if not np.isfinite(coordinates).all():
            raise ValueError(f"{name} must be finite, got {coordinates[~np.isfinite(coordinates)][0]:g}")
    grid = np.stack(np.meshgrid(columns, rows, indexing="ij"), axis=-1).reshape(-1, 2)
    with responses(network, plane.origin, label, torch.stack([plane.across, plane.up]), batch_size) as at:
        grid_responses = at(grid)
    shape = (len(columns), len(rows))
    return Surface(
        across=columns,
        up=rows,
        label=grid_responses.label.reshape(shape),
        margin=grid_responses.margin.reshape(shape),
        confidence=grid_responses.confidence.reshape(shape),
        inside=grid_responses.inside.reshape(shape),
        marks=plane.marks,
        axes=plane.axes,
    )
