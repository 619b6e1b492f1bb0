"""Response surfaces: class, margin and confidence of a network in a plane through an image.

A plane is spanned by two perturbations, adversarial or random, or goes through three images. Its basis is orthonormal, so
distances in the plane are L2 distances between images, in pixel units. The images that span the plane are marked.

The definitions are ours. Source of the idea: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural
Network's Response Surface and Uncertainty Regions", arXiv:2107.00003.
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

# Two directions count as parallel if the sine of their angle is at most this number: their orthogonal part is then only
# rounding error.
PARALLEL = 1e-4


@final
@dataclass(frozen=True)
class Plane:
    """A plane in the space of images, with an orthonormal basis.

    Attributes:
        origin: Image at the coordinates (0, 0), (C, H, W).
        across: Unit vector of the first coordinate, (C, H, W).
        up: Unit vector of the second coordinate, orthogonal to the first, (C, H, W).
        marks: Coordinates (across, up) of the images that span the plane, by name.
        axes: Labels of the two axes.
    """

    origin: Tensor = field(repr=False)
    across: Tensor = field(repr=False)
    up: Tensor = field(repr=False)
    marks: dict[str, tuple[float, float]]
    axes: tuple[str, str]


@final
@dataclass(frozen=True)
class Surface:
    """Class, margin and confidence of a network on a grid in a plane. Arrays have the shape (A, B), indexed [across, up].

    Attributes:
        across: First coordinates, (A,), L2 distances in pixel units.
        up: Second coordinates, (B,), L2 distances in pixel units.
        label: Class predicted by the network, int64.
        margin: Logit of the true label minus the largest other logit. It is negative where the point is misclassified.
        confidence: Largest softmax probability.
        inside: Whether all pixels of the point are in [0, 1], bool. Other points are not valid images.
        marks: Coordinates (across, up) of the images that span the plane, by name.
        axes: Labels of the two axes.
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
    """Returns the plane through an image that two perturbations span.

    The first axis is parallel to the first perturbation. The second axis is parallel to the part of the second
    perturbation that is orthogonal to the first.

    Args:
        image: Origin of the plane, (C, H, W), pixels in [0, 1].
        first: First perturbation, (C, H, W).
        second: Second perturbation, (C, H, W).
        names: Names of the image, of the image plus `first`, and of the image plus `second`.
        axes: Labels of the two axes.

    Raises:
        TypeError: image is not a floating-point tensor.
        ValueError: image is out of range, a perturbation has a different shape, is not finite or is zero, or the
            perturbations are parallel.
    """
    check_image(image)
    for name, step in zip(names[1:], (first, second), strict=True):
        if step.shape != image.shape:
            raise ValueError(f"{name} must have the shape of the image, {tuple(image.shape)}, got {tuple(step.shape)}")
        if not bool(torch.isfinite(step).all()):
            raise ValueError(f"{name} must be finite, got {'NaN' if bool(torch.isnan(step).any()) else 'infinity'}")
    # Double precision on the CPU, for exact distances.
    one, other = (step.detach().cpu().double() for step in (first, second))
    length, reach = float(one.norm()), float(other.norm())
    if length == 0 or reach == 0:
        raise ValueError(
            f"{names[1] if length == 0 else names[2]} must differ from {names[0]}; equal images do not span a plane"
        )
    across = one / length
    along = float((across * other).sum())
    rest = other - along * across
    height = float(rest.norm())
    if height <= PARALLEL * reach:
        raise ValueError(
            f"{', '.join(names)} must not lie on one line, which does not span a plane; choose another image or direction"
        )
    marks = {names[0]: (0.0, 0.0), names[1]: (length, 0.0), names[2]: (along, height)}
    return Plane(image.detach(), across.to(image.dtype), (rest / height).to(image.dtype), marks, axes)


def plane_through(images: Tensor, names: tuple[str, str, str] = ("first", "second", "third")) -> Plane:
    """Returns the plane through three images. The first axis points from the first image to the second.

    `response_surface` takes one label for all margins in the plane, usually that of the first image.

    Args:
        images: Three images, (3, C, H, W), pixels in [0, 1].
        names: Names of the three images.

    Raises:
        TypeError: images is not a floating-point tensor.
        ValueError: there are not three images, they are out of range, two are equal, or they lie on one line.
    """
    if len(images) != 3:
        raise ValueError(f"images must hold 3 images, got {len(images)}")
    for image in images:
        check_image(image)
    origin, first, second = images.detach()
    if torch.equal(first, second):
        raise ValueError(f"{names[2]} must differ from {names[1]}; equal images do not span a plane")
    # The difference of two float32 images is exact only in double precision.
    one, other = (image.cpu().double() - origin.cpu().double() for image in (first, second))
    axes = (f"from {names[0]} to {names[1]}", f"at right angles, towards {names[2]}")
    return plane_along(origin, one, other, names, axes)


def window(plane: Plane, extent: float = 2.0, points: int = 61) -> tuple[Floats, Floats]:
    """Returns the coordinates across (P,) and up (P,) of a square window that contains all marks of a plane.

    Args:
        plane: Plane with marks.
        extent: Width of the window, as a multiple of the longer side of the box around the marks, at least 1. The window
            has the same centre as the box.
        points: Number P of coordinates per axis, at least 2.

    Raises:
        ValueError: extent is below 1 or not finite, or points is below 2.
    """
    if not extent >= 1:
        raise ValueError(f"extent must be at least 1, so that the window contains all marks, got {extent:g}")
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
    """Returns class, margin and confidence of a network on a grid of points in a plane.

    The cost is one forward pass per point. Points outside the pixel range are evaluated too, and `inside` is false there.

    Args:
        network: Maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K). Its state is restored afterwards.
        plane: Plane, on the network's device.
        label: True label, to which margins refer.
        across: Coordinates on the first axis, (A,), L2 distances from the origin in pixel units, such as from `window`.
        up: Coordinates on the second axis, (B,), in the same units.
        batch_size: Points in one pass; estimated from the memory that one image needs if None.

    Raises:
        TypeError: network has the wrong type.
        ValueError: label is out of range, there are no coordinates, a coordinate is not finite, or the network's output is
            not (N, K) finite logits.

    Source: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
    Uncertainty Regions", arXiv:2107.00003, for the idea. The definitions are ours.
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
