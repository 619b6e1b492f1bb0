"""Converts an ONNX file to torch with onnx2torch, an optional package, and compares both on random images."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from nas.analysis.networks.onnx_scores import LARGEST_BATCH, OnnxScores, check_shape, filled
from nas.errors import format_error

if TYPE_CHECKING:
    from collections.abc import Sequence

# onnx2torch knows operators up to this version of ONNX. The exporter of torch writes later ones, which are converted first.
OPSET = 17
# Random images on which both networks are compared, and the largest difference relative to the largest output.
PROBES, TOLERANCE = 4, 1e-3
# Side of these images, in pixels, if the file takes any size. Some networks need sides of at least 32 or 224 pixels.
SIDES = (64, 224)


@final
class ConvertedOnnx(nn.Module):
    """An ONNX file as a torch network. Returns its only output, or a dict of several outputs.

    Args:
        body: Network of onnx2torch.
        outputs: Names of its outputs.
        batch: Fixed number of images in one pass; None if it is free.
        shape: Channels, height and width; None for each that is free.
    """

    def __init__(self, body: nn.Module, outputs: Sequence[str], batch: int | None, shape: Sequence[int | None]) -> None:
        super().__init__()
        self.body, self.outputs, self.batch, self.shape = body, list(outputs), batch, tuple(shape)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Returns the output for images x (N, C, H, W), (N, K); a dict by name if there are several.

        Raises:
            AdapterError: the file takes images of another shape.
        """
        check_shape(x, self.shape)
        batches = [(x, len(x))] if self.batch is None else filled(x, self.batch)
        parts = [[value[:count] for value in _values(self.body(images))] for images, count in batches]
        whole = [torch.cat(values) for values in zip(*parts, strict=True)]
        return whole[0] if len(whole) == 1 else dict(zip(self.outputs, whole, strict=True))


def _values(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def converted(model: Any, scores: OnnxScores) -> nn.Module | str:
    """Returns an ONNX model as a torch network with gradients, or the reason why there is none.

    Args:
        model: The model, which is changed.
        scores: The same model in onnxruntime. Both must agree on random images.
    """
    try:
        onnx2torch = importlib.import_module("onnx2torch")
    except ImportError:
        return "the converter onnx2torch is not installed; for gradients, pip install 'hardcell[onnx]'"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = onnx2torch.convert(_supported(model)).eval().requires_grad_(False)
            network = ConvertedOnnx(body, scores.outputs, scores.batch, scores.shape).eval()
            difference = _difference(network, scores)
    except Exception as error:  # The type of the error depends on the operator.
        return f"onnx2torch cannot convert it ({format_error(error)})"
    if not difference <= TOLERANCE:  # NaN counts as a difference.
        return f"onnx2torch converts it wrongly (relative difference of the logits {difference:.2g})"
    return network


def _supported(model: Any) -> Any:
    """Returns a model with operators of the version that onnx2torch knows."""
    from onnx import version_converter

    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if max(versions, default=0) > OPSET:
        model = version_converter.convert_version(model, OPSET)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            # With allowzero, a 0 in the shape is an empty side. No network of images has one, and the comparison of the
            # logits would show it.
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return model


def _difference(network: nn.Module, scores: OnnxScores) -> float:
    """Returns the largest difference of the outputs on random images, relative to the largest output."""
    generator = torch.Generator().manual_seed(0)
    for side in SIDES:
        channels, height, width = scores.shape
        count = min(scores.batch or PROBES, LARGEST_BATCH)
        x = torch.rand(count, channels or 3, height or side, width or side, generator=generator)
        try:
            expected = _tensors(scores(x))
        except Exception:
            if side == SIDES[-1] or None not in scores.shape:
                raise
            continue
        with torch.no_grad():
            actual = _tensors(network(x))
        return max(
            float((a.double() - e.double()).abs().max() / e.double().abs().max().clamp(min=1e-6))
            for a, e in zip(actual, expected, strict=True)
        )
    raise AssertionError("the loop returns or raises")


def _tensors(output: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output.values())
