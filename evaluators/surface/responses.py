"""Class, margin and confidence of a network at points image + coordinates @ directions, for surfaces and lines."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.attacks.losses import margin
from evaluators.curves.error_curves import Floats
from evaluators.engine.input_checks import check_logits
from evaluators.engine.prepared import prepare
from evaluators.surface.directions import check_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

# Tolerance for rounding: a pixel that is at most this far outside [0, 1] counts as inside.
SLACK = 1e-6


@final
@dataclass(frozen=True)
class Responses:
    """Class, margin and confidence of a network at P points.

    Attributes:
        label: Predicted class, (P,) int64.
        margin: Logit of the true label minus the largest other logit, (P,). Negative where the point is misclassified.
        confidence: Largest softmax probability, (P,).
        inside: Whether all pixels of the point are in [0, 1], (P,) bool.
    """

    label: NDArray[np.int64]
    margin: Floats
    confidence: Floats
    inside: NDArray[np.bool_]


@contextmanager
def responses(
    network: nn.Module, image: Tensor, label: int, directions: Tensor, batch_size: int | None = None
) -> Iterator[Callable[[Floats], Responses]]:
    """Yields a function from coordinates (P, D) to the responses at image + coordinates @ directions.

    Args:
        network: Maps images (N, C, H, W) to logits (N, K). It is frozen inside the context and restored afterwards.
        image: Image at coordinates 0, (C, H, W), pixels in [0, 1].
        label: True label, to which margins refer.
        directions: Change of the image per unit of each coordinate, (D, C, H, W).
        batch_size: Points in one pass; estimated from the memory that one image needs if None.

    Raises:
        TypeError: network or image has the wrong type.
        ValueError: image or label is out of range, a direction does not have the shape of the image, or the network's
            output is not (N, K) finite logits.
    """
    check_image(image)
    if directions.shape[1:] != image.shape:
        raise ValueError(
            f"a direction must have the shape of the image, {tuple(image.shape)}, got {tuple(directions.shape[1:])}"
        )
    x, y = image.detach()[None], torch.tensor([label], device=image.device)
    flat = directions.to(x).flatten(1)
    with prepare(network, x, y, batch_size, attempts=1) as prepared:

        def at(coordinates: Floats) -> Responses:
            places = torch.from_numpy(np.ascontiguousarray(coordinates)).to(x)

            def work(batch: Tensor) -> tuple[Tensor, ...]:
                # The terms are added one by one, because the rounding of a matrix product depends on the batch size.
                pixels = x.flatten(1).expand(len(batch), -1)
                for column, direction in zip(places[batch].unbind(1), flat, strict=True):
                    pixels = pixels + column[:, None] * direction
                inside = (pixels.amin(1) >= -SLACK) & (pixels.amax(1) <= 1 + SLACK)
                with torch.no_grad():
                    logits = prepared.network(pixels.reshape(-1, *image.shape))
                check_logits(logits, len(batch))
                return logits.argmax(1), -margin(logits, y.expand(len(batch))), logits.softmax(1).amax(1), inside

            by_batch = [part for _, part in prepared.batches.over(torch.arange(len(places), device=x.device), work)]
            predicted, gap, sure, inside = (torch.cat(parts).cpu() for parts in zip(*by_batch, strict=True))
            return Responses(predicted.numpy(), gap.double().numpy(), sure.double().numpy(), inside.numpy())

        yield at
