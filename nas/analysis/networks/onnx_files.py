"""Opens ONNX files. Nothing in such a file is code: it is a graph of operators of onnxruntime, and their weights.

The network runs in torch if onnx2torch converts the file and both agree, so that gradients exist. Otherwise it runs in
onnxruntime and has scores only.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, final

from nas.analysis.networks.onnx_gradients import converted
from nas.analysis.networks.onnx_scores import OnnxScores
from nas.analysis.networks.paths import REMEDY
from nas.errors import NetworkError, format_error

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "Integer", "QLinear", "QGemm", "QAttention")


@final
@dataclass(frozen=True)
class OnnxInput:
    """The images that an ONNX file takes.

    Attributes:
        name: Name of the input.
        batch: Fixed number of images in one pass; None if it is free.
        shape: Channels, height and width; None for each that is free.
    """

    name: str
    batch: int | None
    shape: tuple[int | None, ...]


def is_onnx(path: Path) -> bool:
    """Returns whether the suffix of a path is .onnx."""
    return path.suffix.lower() == ".onnx"


def open_onnx(path: Path) -> nn.Module:
    """Returns the network of an ONNX file: in torch if it can be converted, else in onnxruntime, without gradients.

    A fixed batch size is kept: images are split into batches of that size, and the last one is filled up.

    Args:
        path: File with one input, float32 images (N, C, H, W). Weights in other files of its folder are read too.

    Raises:
        NetworkError: the file is damaged, has operators that onnxruntime lacks, or has other inputs.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # The message of the exception holds the error.
    try:
        # Refuses weights outside the folder of the file, which old versions of onnxruntime read.
        model = onnx.load(str(path))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # The type of the error depends on the damage.
        raise NetworkError(
            f"{path}: cannot be opened by onnxruntime: {format_error(error)}; export it again, or {REMEDY}"
        ) from error
    images = _input(path, session)
    outputs = [output.name for output in session.get_outputs() if output.type.startswith("tensor(")]
    if not outputs:
        kinds = ", ".join(f"{output.name} {output.type}" for output in session.get_outputs())
        raise NetworkError(
            f"{path}: must return logits, a tensor (N, K), found {kinds}; export it without a conversion to labels or "
            "dictionaries, such as zipmap of skl2onnx"
        )
    operators = _operators(model)
    # Dynamic quantisation takes one range of activations for all images of a pass, so the images would not be independent.
    batch = 1 if images.batch is None and _is_dynamic(operators) else images.batch
    scores = OnnxScores(session, images.name, outputs, batch, images.shape)
    network = "the file is quantised" if _is_quantised(operators) else converted(model, scores)
    if isinstance(network, str):
        scores.reason = f"the file runs in onnxruntime, because {network}"
        scores.digest = sha256(model.SerializeToString()).hexdigest()[:16]
        return scores
    return network


def _input(path: Path, session: Any) -> OnnxInput:
    """Returns the input of a file.

    Raises:
        NetworkError: the file has several inputs, or its input is not a float32 tensor (N, C, H, W).
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        found = ", ".join(f"{one.name} {_text(one.shape)}" for one in inputs) or "none"
        raise NetworkError(f"{path}: must have one input, the images, found {found}; export a model that takes only images")
    (one,) = inputs
    if one.type != "tensor(float)":
        raise NetworkError(
            f"{path}: must take float32 images, a tensor(float), got {one.type}; convert the images inside the model, and "
            "export it again"
        )
    if len(one.shape) != 4:
        raise NetworkError(
            f"{path}: must take images (N, C, H, W), got the shape {_text(one.shape)}; reshape inside the model, and export "
            "it again"
        )
    sides = [side if isinstance(side, int) and side > 0 else None for side in one.shape]
    if sides[3] in (1, 3) and sides[1] not in (1, 3, None):
        raise NetworkError(
            f"{path}: must take images (N, C, H, W), got (N, H, W, C), {_text(one.shape)}; transpose inside the model, or "
            "export it with channels first"
        )
    return OnnxInput(one.name, sides[0], tuple(sides[1:]))


def _text(shape: list[object]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _operators(model: Any) -> set[str]:
    """Returns the names of all operators of a model."""
    return {node.op_type for node in model.graph.node} | {node.op_type for f in model.functions for node in f.node}


def _is_dynamic(operators: set[str]) -> bool:
    """Returns whether a model with these operators chooses the range of its integers anew in each pass."""
    return "DynamicQuantizeLinear" in operators


def _is_quantised(operators: set[str]) -> bool:
    """Returns whether some operators work on integers, in QDQ or QOperator format."""
    return any(part in operator for operator in operators for part in _QUANTISED)
