"""An ONNX file in onnxruntime: a network with scores and without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from evaluators.engine.scores_only import ScoresOnly
from nas.analysis.networks.outputs import AdapterError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Images in one pass of a file with a free batch size.
LARGEST_BATCH = 64


@final
class OnnxScores(ScoresOnly):
    """Runs an ONNX file in onnxruntime on the CPU. Returns its only output, or a dict of several outputs.

    Args:
        session: Session of onnxruntime.
        name: Name of the input.
        outputs: Names of the outputs that are tensors.
        batch: Fixed number of images in one pass; None if it is free.
        shape: Channels, height and width; None for each that is free.

    Attributes:
        digest: Hash of the file; '' if it is not known.
    """

    digest: str = ""

    def __init__(
        self, session: Any, name: str, outputs: Sequence[str], batch: int | None, shape: Sequence[int | None]
    ) -> None:
        super().__init__()
        self.session, self.name, self.outputs = session, name, list(outputs)
        self.batch, self.shape = batch, tuple(shape)

    def extra_repr(self) -> str:
        """Returns the hash of the file, which stands for its weights wherever a network is hashed."""
        return self.digest

    def scores(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Returns the output for images x (N, C, H, W), (N, K), on their device; a dict by name if there are several.

        Raises:
            AdapterError: the file takes images of another shape.
        """
        check_shape(x, self.shape)
        parts = [
            [torch.from_numpy(part)[:count] for part in self.session.run(self.outputs, {self.name: images.numpy()})]
            for images, count in filled(x.detach().to("cpu", torch.float32), self.batch)
        ]
        whole = [torch.cat(columns).to(x.device) for columns in zip(*parts, strict=True)]
        return whole[0] if len(whole) == 1 else dict(zip(self.outputs, whole, strict=True))


def check_shape(x: Tensor, shape: Sequence[int | None]) -> None:
    """Checks that images x (N, C, H, W) have the channels and sides of a file.

    Raises:
        AdapterError: they have others.
    """
    if x.ndim == 4 and all(side in (None, given) for side, given in zip(shape, x.shape[1:], strict=True)):
        return
    channels, height, width = shape
    resizes = x.ndim == 4 and channels in (None, x.shape[1]) and height == width and height is not None
    remedy = f"use --resize {height} (resize)" if resizes else "use the data that it was made for"
    raise AdapterError(
        f"takes images {' x '.join('?' if side is None else str(side) for side in shape)} (channels, height, width), got "
        f"{' x '.join(map(str, x.shape[1:]))}; {remedy}"
    )


def filled(x: Tensor, batch: int | None) -> list[tuple[Tensor, int]]:
    """Returns batches of images x (N, ...), and the number of images in each that belong to x.

    Args:
        x: Images, (N, ...).
        batch: Fixed size of each batch: the last one is filled up with copies of its last image. None for no fixed size.
    """
    if batch is None:
        return [(part.contiguous(), len(part)) for part in x.split(LARGEST_BATCH)]
    parts = []
    for part in x.split(batch):
        missing = batch - len(part)
        full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        parts.append((full.contiguous(), len(part)))
    return parts
