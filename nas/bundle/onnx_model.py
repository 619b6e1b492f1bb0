"""Writes ONNX models without traces of the machine that made them, and opens models of other people as data.

A model of other people could read other files as tensors, run loops without end, or make huge tensors. Only operators of
ordinary networks are allowed. All tensors must have a bounded size, and all stored tensors must be in the file.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import torch

from nas.bundle.exported import refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

INPUT, OUTPUT = "image", "logits"
# Largest number of values in a tensor, for the whole batch.
LARGEST_TENSOR = 2**28
# Operators of networks in evaluation mode. None of them contains a graph, as Loop does, or makes a tensor from a size alone,
# as ConstantOfShape does.
_OPERATORS = re.compile(
    r"Abs|Add|And|ArgMax|ArgMin|AveragePool|BatchNormalization|Cast|CastLike|Ceil|Celu|Clip|Concat|Constant|Conv"
    r"|ConvTranspose|Cos|DepthToSpace|Div|Dropout|Einsum|Elu|Equal|Erf|Exp|Expand|Flatten|Floor|Gather|GatherElements"
    r"|Gelu|Gemm|GlobalAveragePool|GlobalMaxPool|Greater|GreaterOrEqual|GroupNormalization|HardSigmoid|HardSwish|Identity"
    r"|InstanceNormalization|LayerNormalization|LeakyRelu|Less|LessOrEqual|Log|LogSoftmax|LpNormalization|LpPool|LRN"
    r"|MatMul|Max|MaxPool|Mean|Min|Mish|Mod|Mul|Neg|Not|Or|PRelu|Pad|Pow|RMSNormalization|Reciprocal|ReduceL1|ReduceL2"
    r"|ReduceLogSumExp|ReduceMax|ReduceMean|ReduceMin|ReduceProd|ReduceSum|ReduceSumSquare|Relu|Reshape|Resize|Round|Selu"
    r"|Shape|Sigmoid|Sign|Sin|Size|Slice|Softmax|Softplus|Softsign|SpaceToDepth|Split|Sqrt|Squeeze|Sub|Sum|Swish|Tanh"
    r"|ThresholdedRelu|Tile|Transpose|Unsqueeze|Where|Xor"
)


def write_onnx(program: torch.export.ExportedProgram, example: Tensor, batch: Any, metadata: Mapping[str, str]) -> bytes:
    """Returns the ONNX model of an exported program, with the given metadata and without source lines and paths.

    Args:
        program: Program from images (N, C, H, W) to logits (N, K).
        example: Example images (N, C, H, W).
        batch: The dynamic dimension of the batch.
        metadata: Entries of the model's metadata.
    """
    exported = torch.onnx.export(
        program,
        (example,),
        dynamo=True,
        external_data=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    for message in _messages(model):
        for field in ("metadata_props", "doc_string"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    model.producer_name, model.producer_version = "hardcell", ""
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def run_onnx(content: bytes, x: Tensor, *, trust: bool = False) -> Tensor:
    """Returns the logits (N, K) of an ONNX model for images x (N, C, H, W) on the CPU.

    Args:
        content: Content of the file.
        x: Images, with pixels in [0, 1].
        trust: Pass the model to onnxruntime unchecked.

    Raises:
        UntrustedCodeError: the model is not in the form that Hardcell exports, and `trust` is false.
        Exception: the model is damaged; the type depends on the damage.
    """
    import onnxruntime

    if not trust:
        check_onnx(content, tuple(x.shape))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0])


def check_onnx(content: bytes, shape: tuple[int, ...]) -> None:
    """Checks that a model can run on images of a shape (N, C, H, W) without harm.

    Raises:
        UntrustedCodeError: the model refers to another file; has a function, a sparse tensor, training information, a graph
            inside an operator or an operator that is not allowed; or has a tensor that is too large or of unknown size.
        ValueError: the model cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ValueError("is no ONNX model") from error
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (message.external_data or message.data_location):
            raise refused("a tensor in another file")
        if isinstance(message, onnx.FunctionProto | onnx.SparseTensorProto | onnx.TrainingInfoProto):
            raise refused("a function, a sparse tensor or training information")
        if isinstance(message, onnx.NodeProto) and (message.domain or not _OPERATORS.fullmatch(message.op_type)):
            raise refused(f"the operator {f'{message.domain}.{message.op_type}'.lstrip('.')[:80]!r}")
        if isinstance(message, onnx.GraphProto) and message is not model.graph:
            raise refused("a graph inside an operator")
    _check_sizes(model, shape)


def _check_sizes(model: Any, shape: tuple[int, ...]) -> None:
    """Checks the sizes of all tensors that the model computes from images of a shape."""
    import onnx

    for image in model.graph.input:
        dimensions = image.type.tensor_type.shape.dim
        if image.name == INPUT and len(dimensions) == len(shape):
            dimensions[0].dim_value = shape[0]
    del model.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise refused("tensors whose sizes cannot be computed") from error
    sizes = {value.name: _size(value) for value in (*inferred.value_info, *inferred.output)}
    for node in inferred.node:
        for name in node.output:
            size = sizes.get(name, math.inf)
            if name and not 0 <= size <= LARGEST_TENSOR:
                raise refused("a tensor of unknown size" if size == math.inf else f"a tensor of {size:,} values")


def _size(value: Any) -> float:
    """Returns the number of values of a tensor; infinite if it is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dimension.HasField("dim_value") for dimension in tensor.shape.dim):
        return math.inf
    return math.prod([int(dimension.dim_value) for dimension in tensor.shape.dim])


def _messages(message: Any) -> Iterator[Any]:
    """Yields a protobuf message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if isinstance(value, list) or hasattr(value, "add") else (value,):
                yield from _messages(inner)
