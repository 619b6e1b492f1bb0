"""Opens a program of torch.export as data. An archive that could run code is refused before torch reads it.

torch.export.load unpickles sample inputs and some tensors, evaluates symbolic expressions as Python, resolves operators by
attribute access, compiles guards, and puts names into generated code. This module allows only the entries, tensors,
operators, names and expressions that Hardcell's exporter produces. torch then reads a new archive with the checked content,
without sample inputs and without metadata of nodes.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import math
import re
import warnings
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, final

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nas.resolve import UntrustedCodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

LARGEST_FILE = 2**31
# Largest number of values in a tensor of the graph, for one image.
LARGEST_TENSOR = 2**26
# Largest depth of nested values in a program.
DEEPEST = 60
_ENTRIES = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|version|byteorder|\.data/\w+|\.format_version"
    r"|\.storage_alignment)"
)
_SAMPLE_INPUTS, _PROGRAM = "data/sample_inputs/model.pt", "models/model.json"
_TENSORS = {
    "data/weights/model_weights_config.json": "data/weights/",
    "data/constants/model_constants_config.json": "data/constants/",
}
# Patterns of names. They allow no double underscore, which could give access to attributes of Python such as __globals__.
_IDENTIFIER, _DOTTED = re.compile(r"(?!\w*__)[A-Za-z_]\w*", re.ASCII), re.compile(r"(?![\w.]*__)[\w.]*", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)
# Operators of networks in evaluation mode, without the suffix _ of in-place operators. Other operators may have side
# effects, or read and write memory outside their tensors (as_strided, resize, set).
_OPERATORS = re.compile(
    r"conv[123]d|conv_transpose[123]d|convolution|linear|addmm|matmul|mm|bmm|baddbmm|mv|dot|einsum|scaled_dot_product_attention"
    r"|(batch|layer|group|instance|rms)_norm|relu6?|leaky_relu|gelu|silu|s?elu|celu|hardswish|hardsigmoid|hardtanh|sigmoid|tanh"
    r"|softplus|mish|prelu|threshold|log_sigmoid|glu|_?softmax|_?log_softmax|(max|avg)_pool[123]d|max_pool2d_with_indices"
    r"|adaptive_(avg|max)_pool[123]d|_adaptive_avg_pool2d|add|sub|rsub|mul|div|neg|abs|sqrt|rsqrt|square|pow|exp|expm1|log|log2"
    r"|log1p|sin|cos|clamp|clamp_(min|max)|maximum|minimum|reciprocal|sign|floor|ceil|round|remainder|fmod|addcmul|addcdiv|lerp"
    r"|where|masked_fill|eq|ne|lt|le|gt|ge|logical_(and|or|not|xor)|mean|sum|prod|amax|amin|max|min|argmax|argmin|var|std"
    r"|var_mean|norm|linalg_vector_norm|all|any|cumsum|topk|reshape|view|flatten|unflatten|squeeze|unsqueeze|permute|transpose|t"
    r"|numpy_T|movedim|contiguous|expand|expand_as|repeat|cat|concat|stack|split|split_with_sizes|chunk|unbind|narrow|select"
    r"|slice|index_select|gather|flip|roll|pad|constant_pad_nd|(reflection|replication)_pad[123]d|pixel_(un)?shuffle"
    r"|channel_shuffle|upsample_(nearest|bilinear|bicubic)[123]d|_upsample_nearest_exact2d|unfold|im2col|dropout|feature_dropout"
    r"|alpha_dropout|identity|alias|detach|clone|lift_fresh_copy|to|_to_copy|type_as|zeros|ones|full|zeros_like|ones_like"
    r"|full_like|new_zeros|new_ones|new_full|arange|scalar_tensor|embedding|sym_size|_assert_tensor_metadata"
)
_FUNCTION = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)|torch\.sym_(max|min|int|float|not)"
)
_CONTEXT = re.compile(r'None|null|\[("\w{0,80}"(, )?){0,100}\]', re.ASCII)
_PLAIN = re.compile(r"[\w.+-]*", re.ASCII)
# Keys of a program whose text must match a pattern.
_STRINGS = {
    **dict.fromkeys(("name", "as_name", "forward_arg_names"), _IDENTIFIER),
    **dict.fromkeys(("fqn", "parameter_name", "buffer_name", "tensor_constant_name"), _DOTTED),
    **dict.fromkeys(("as_string", "as_strings"), re.compile(r"[a-z_]{0,32}")),
    **dict.fromkeys(("type", "torch_version", "verifiers"), _PLAIN),
}
# Keys whose values are numbers, lists or mappings.
_KEYS = re.compile(
    r"graph_module|graph|inputs|outputs|nodes|signature|(in|out)put_specs|module_call_graph|arg|kind|hint|parameter|buffer"
    r"|user_(in|out)put|tensor_constant|constant_input|value|persistent|as_(none|tensors?|ints?|floats?|sym_ints?|bools?|expr)"
    r"|as_(scalar_type|memory_format|layout|device|optional_tensors?)|dtype|sizes|strides|storage_offset|requires_grad|device"
    r"|index|layout|min_val|max_val|schema_version|major|minor|is_(single_tensor|hop_single_tensor)_return"
)
# Keys whose values are mappings by name; these names must match _IDENTIFIER.
_NAMED = {"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "range_constraints", "opset_version"}
# Keys whose values are empty in the files that Hardcell writes.
_EMPTY = {"guards_code", "custom_obj_values", "treespec_namedtuple_fields", "metadata"}
_SYMBOLIC = {"Symbol", "Integer", "Add", "Mul", "Max", "Min", "FloorDiv", "Mod", "PythonMod", "CleanDiv", "CeilToInt"}


def open_exported(path: Path, *, trust: bool = False) -> nn.Module:
    """Returns the network of a .pt2 file, from images (N, C, H, W) to logits (N, K), in the mode in which it was exported.

    Args:
        path: File of torch.export.save.
        trust: Pass the file to torch unchecked.

    Raises:
        UntrustedCodeError: the file is not in the form that Hardcell exports, so it could run code, and `trust` is false.
        Exception: the file is damaged; the type depends on the damage.
    """
    archive = read_limited(path)
    content = io.BytesIO(archive if trust else checked_archive(archive))
    with quiet():
        program = torch.export.load(content)
        network: nn.Module = program.module()
        if not trust:
            _check_sizes(network, program)
    for module in network.modules():
        module.training = False  # The flag is always True after loading, independent of the graph's mode.
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # The file may mark parameters as frozen.
    return network


def read_limited(path: Path) -> bytes:
    """Returns the content of a file of at most LARGEST_FILE bytes.

    Raises:
        ValueError: the file is larger.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"is larger than {LARGEST_FILE:,} bytes")
    return content


def checked_archive(archive: bytes) -> bytes:
    """Checks an archive of torch.export and returns it without sample inputs and without metadata of nodes.

    Raises:
        UntrustedCodeError: the archive is not in the form that Hardcell exports, so it could run code.
        zipfile.BadZipFile: the archive is damaged.
    """
    entries = _read_entries(archive)
    sizes = {name: len(content) for name, content in entries.items()}
    for name, folder in _TENSORS.items():
        if name in entries:
            _check_tensors(_parse(entries[name], name), name, folder, sizes)
    if _PROGRAM not in entries:
        raise refused("no program")
    program = _without_metadata(_parse(entries[_PROGRAM], _PROGRAM))
    _check(program, "program", 0)
    for node in program["graph_module"]["graph"]["nodes"]:
        _check_node(node)
    return _archive(entries, program)


def strip_archive(archive: bytes) -> bytes:
    """Returns an archive of torch.export without pickled sample inputs and without the metadata of nodes.

    The entry of the sample inputs becomes empty, which torch reads as no sample inputs. The metadata has source lines and
    paths of the machine.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        entries = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    return _archive(entries, _without_metadata(json.loads(entries[_PROGRAM])))


def _archive(entries: Mapping[str, bytes], program: Any) -> bytes:
    """Returns an archive with another program and without sample inputs."""
    rebuilt = io.BytesIO()
    with zipfile.ZipFile(rebuilt, "w", zipfile.ZIP_STORED) as target:
        for name, content in {**entries, _PROGRAM: json.dumps(program).encode(), _SAMPLE_INPUTS: b""}.items():
            target.writestr(f"archive/{name}", content)
    return rebuilt.getvalue()


def _without_metadata(program: Any) -> Any:
    with suppress(KeyError, TypeError):  # `_check` refuses a malformed program.
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {}
    return program


def refused(what: str) -> UntrustedCodeError:
    """Returns the error for a file that holds what Hardcell's exporter does not write."""
    return UntrustedCodeError(
        f"is not in the form that Hardcell exports: it holds {what}; if you trust the file, use --trust (trust=True)"
    )


def _read_entries(archive: bytes) -> dict[str, bytes]:
    """Returns the content of the entries by their path below the archive's folder."""
    entries: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        for info in source.infolist():
            name = info.filename.partition("/")[2]
            if not _ENTRIES.fullmatch(name) or name in entries:
                raise refused(f"the entry {info.filename[:80]!r}")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > len(archive):
                raise refused(f"a compressed or encrypted entry, {info.filename!r}")
            entries[name] = source.read(info)
    return entries


def _parse(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise refused(f"an entry {name} that is no JSON") from error


def _check_tensors(config: Any, name: str, folder: str, sizes: dict[str, int]) -> None:
    """Checks that every tensor is stored as raw bytes in the archive, and is no larger than these bytes."""
    tensors = config.get("config") if isinstance(config, dict) else None
    if not isinstance(tensors, dict):
        raise refused(f"a malformed entry {name}")
    for key, entry in tensors.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise refused(f"a pickle, for the tensor {key[:80]!r}")
        size, path = None, entry.get("path_name")
        if isinstance(path, str):
            size = sizes.get(folder + path)
        _check({"value": entry.get("tensor_meta")}, name, 0)
        if size is None or not _DOTTED.fullmatch(key) or _last_index(entry.get("tensor_meta")) >= max(size, 1):
            raise refused(f"the tensor {key[:80]!r} without its bytes")


def _last_index(meta: Any) -> float:
    """Returns the index of the last value of a strided tensor in its storage; infinite for any other metadata."""
    try:
        shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        offset = meta["storage_offset"]["as_int"]
        if not all(type(n) is int and n >= 0 for n in (*shape, *strides, offset)):
            return math.inf
        if 0 in shape:
            return 0
        return float(offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)))
    except (KeyError, TypeError, ValueError):
        return math.inf


def _check(value: Any, key: str, depth: int) -> None:
    """Checks a value of a program by its key.

    Raises:
        UntrustedCodeError: a key is unknown, or its value is not allowed.
    """
    if depth > DEEPEST:
        raise refused("a graph that is nested too deep")
    if isinstance(value, dict) and key in _NAMED:
        for name, entry in value.items():
            if not _IDENTIFIER.fullmatch(name):
                raise refused(f"the name {name[:80]!r}")
            _check(entry, "value", depth + 1)
    elif isinstance(value, dict):
        for name, entry in value.items():
            known = _KEYS.fullmatch(name) or name in _STRINGS or name in _NAMED or name in _TEXTS
            if not known and (entry or name not in _EMPTY):
                raise refused(f"the key {name[:80]!r}")
            _check(entry, name, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, key, depth + 1)
    elif isinstance(value, str):
        if key in _TEXTS:
            _TEXTS[key](value)
        elif key not in _STRINGS or not _STRINGS[key].fullmatch(value):
            raise refused(f"the text {value[:80]!r} as {key}")
    elif isinstance(value, int) and abs(value) > 2**63:
        raise refused(f"the number {value}")


def _check_target(text: str) -> None:
    """Checks by name that an operator is an allowed operator of ATen, or a function that computes sizes."""
    if _FUNCTION.fullmatch(text):
        return
    match = _OPERATOR.fullmatch(text)
    if match and not _OPERATORS.fullmatch(match[1].removesuffix("_")):
        match = None
    packet = getattr(torch.ops.aten, match[1], None) if match else None
    operator = getattr(packet, match[2], None) if match and isinstance(packet, torch._ops.OpOverloadPacket) else None
    if not isinstance(operator, torch._ops.OpOverload):
        raise refused(f"the operator {text[:80]!r}")


def _check_expression(text: str) -> None:
    """Checks that a symbolic expression is arithmetic of symbols and integers. torch evaluates it as Python."""
    try:
        tree = ast.parse(text, mode="eval") if len(text) <= 2000 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None or not _is_arithmetic(tree.body):
        raise refused(f"the expression {text[:80]!r}")


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return bool(re.fullmatch(r"[su]\d+", node.id))
    if isinstance(node, ast.Constant):
        return type(node.value) is int and abs(node.value) < 2**31
    if isinstance(node, ast.BinOp):
        operators = ast.Add | ast.Sub | ast.Mult | ast.FloorDiv | ast.Mod
        return isinstance(node.op, operators) and _is_arithmetic(node.left) and _is_arithmetic(node.right)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_arithmetic(node.operand)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _SYMBOLIC:
        return False
    if node.func.id == "Symbol":
        [*names] = node.args
        plain = all(isinstance(k.value, ast.Constant) and type(k.value.value) is bool and k.arg for k in node.keywords)
        return plain and len(names) == 1 and isinstance(names[0], ast.Constant) and _is_symbol(names[0].value)
    return not node.keywords and all(map(_is_arithmetic, node.args))


def _is_symbol(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[su]\d+", value))


def _check_tree(text: str) -> None:
    """Checks that the nested structure of inputs or outputs has only tuples, lists, dicts and leaves."""

    def plain(tree: Any, depth: int) -> bool:
        return (
            depth <= DEEPEST
            and isinstance(tree, dict)
            and tree.get("type") in (None, "builtins.tuple", "builtins.list", "builtins.dict")
            and bool(_CONTEXT.fullmatch(str(tree.get("context"))))
            and isinstance(tree.get("children_spec"), list)
            and all(plain(child, depth + 1) for child in tree["children_spec"])
        )

    tree = _parse(text.encode(), "of inputs or outputs")
    if not (isinstance(tree, list) and len(tree) == 2 and type(tree[0]) is int and plain(tree[1], 0)):
        raise refused(f"the structure {text[:80]!r} of inputs or outputs")


# Keys of a program whose text is checked by a function.
_TEXTS = {"target": _check_target, "expr_str": _check_expression, "in_spec": _check_tree, "out_spec": _check_tree}


def _check_node(node: Any) -> None:
    """Checks that a node which computes sizes has only numbers as arguments. Nodes of ATen operators pass."""
    arguments = [entry.get("arg", {}) for entry in node["inputs"]]
    if _FUNCTION.fullmatch(str(node["target"])):
        kinds = {"as_int", "as_float", "as_bool", "as_sym_int"}
        if "getitem" in node["target"]:  # getitem may select one of several results of an operator.
            kinds |= {"as_tensor", "as_tensors"}
        if any(not kinds >= set(argument) for argument in arguments):
            raise refused(f"arguments of {node['target']} that are not numbers")


@final
class _SizeLimit(TorchDispatchMode):
    """Raises an error if an operator returns a tensor with more values than a limit."""

    def __init__(self, largest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = largest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and checks the sizes of its results."""
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, torch.Tensor) and result.numel() > self.largest:
                raise refused(f"a tensor of {result.numel():,} values")
        return results


def _check_sizes(network: nn.Module, program: torch.export.ExportedProgram) -> None:
    """Checks the sizes of all tensors in a graph.

    The graph runs with fake tensors, which use no memory: with a batch of 2 and one of 1024, or with the batch size of the
    graph if that is fixed.

    Raises:
        UntrustedCodeError: a tensor has more than LARGEST_TENSOR values for each image of the batch, or the graph does not
            take one batch of images of a known size.
    """
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-1:]
    if len(program.graph_signature.user_inputs) != 1 or not inputs or inputs[0].ndim < 1:
        raise refused("other inputs than one batch of images")
    sizes = [size for size in inputs[0].shape[1:] if isinstance(size, int)]
    if len(sizes) < inputs[0].ndim - 1:
        raise refused("images of an unknown size")
    batch_size = inputs[0].shape[0]
    for batch in (batch_size,) if isinstance(batch_size, int) else (2, 1024):
        with FakeTensorMode(allow_non_fake_inputs=True), _SizeLimit(batch * LARGEST_TENSOR), torch.no_grad():
            network(torch.empty(batch, *sizes, dtype=inputs[0].dtype))


@contextmanager
def quiet() -> Iterator[None]:
    """Silences torch's exporters: progress, deprecation warnings, and tracebacks of errors that are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
