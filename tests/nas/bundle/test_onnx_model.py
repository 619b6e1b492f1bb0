"""An ONNX model is data: references to other files, loops and huge tensors are refused before onnxruntime reads them."""

import json

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from nas.bundle.onnx_model import LARGEST_TENSOR, check_onnx, run_onnx, write_onnx
from nas.resolve import UntrustedCodeError


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)).eval()


@pytest.fixture(scope="module")
def content(network):
    batch, example = torch.export.Dim("batch", min=1), torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
        return write_onnx(program, example, batch, {"classes": '["a", "b"]'})


def test_logits_are_those_of_the_network(network, content):
    x = torch.rand(7, 1, 4, 4)
    assert torch.allclose(run_onnx(content, x), network(x), atol=1e-5)


def test_model_holds_its_metadata_and_no_path(content):
    model = onnx.load_model_from_string(content)
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {"classes": ["a", "b"]}
    assert model.producer_name == "hardcell"
    assert not any(node.metadata_props for node in model.graph.node)
    assert b"stack_trace" not in content
    assert b".py" not in content


def small(*nodes, initializers=(), functions=()):
    """Returns a model from images to logits whose last operator flattens the images."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [*nodes, helper.make_node("Flatten", ["image"], ["logits"])], "g", [image], [logits], list(initializers)
    )
    return helper.make_model(graph, functions=list(functions))


def external(tensor):
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def tensor(name="t", dims=(2,)):
    return helper.make_tensor(name, TensorProto.FLOAT, dims, [0.0] * (dims[0] if dims else 1))


def outside_initializer():
    return small(initializers=[external(tensor())])


def outside_attribute():
    return small(helper.make_node("Constant", [], ["c"], value=external(tensor())))


def outside_sparse_initializer():
    model = small()
    sparse = helper.make_sparse_tensor(external(tensor()), helper.make_tensor("i", TensorProto.INT64, [2], [0, 1]), [4])
    model.graph.sparse_initializer.append(sparse)
    return model


def outside_function():
    node = helper.make_node("Constant", [], ["y"], value=external(tensor()))
    function = helper.make_function("own", "f", [], ["y"], [node], [helper.make_opsetid("", 20)])
    return small(helper.make_node("f", [], ["c"], domain="own"), functions=[function])


def loop():
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "body", [], [])
    return small(helper.make_node("Loop", ["", ""], [], body=body))


def graph_in_a_known_operator():
    return small(helper.make_node("Relu", ["image"], ["r"], body=helper.make_graph([], "body", [], [])))


def sizes(*values):
    return helper.make_tensor("sizes", TensorProto.INT64, [len(values)], values)


def huge(operator):
    def make():
        return small(helper.make_node(operator, ["image", "sizes"], ["e"]), initializers=[sizes(2**20, 2**20, 4, 4)])

    return make


def from_size_alone():
    return small(helper.make_node("ConstantOfShape", ["sizes"], ["c"]), initializers=[sizes(2**40)])


def of_unknown_size():
    cast = helper.make_node("Cast", ["image"], ["n"], to=TensorProto.INT64)
    flat = helper.make_node("Reshape", ["n", "one"], ["s"])
    one = helper.make_tensor("one", TensorProto.INT64, [1], [-1])
    return small(cast, flat, helper.make_node("Tile", ["image", "s"], ["e"]), initializers=[one])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (outside_initializer, "another file"),
        (outside_attribute, "another file"),
        (outside_sparse_initializer, "another file|sparse"),
        (outside_function, "own.f|another file"),
        (loop, "'Loop'"),
        (graph_in_a_known_operator, "graph inside"),
        (huge("Expand"), "values|sizes"),
        (huge("Tile"), "values|sizes"),
        (from_size_alone, "'ConstantOfShape'"),
        (of_unknown_size, "unknown size|sizes"),
    ],
)
def test_what_the_exporter_does_not_write_is_refused(make, what):
    with pytest.raises(UntrustedCodeError, match=what):
        check_onnx(make().SerializeToString(), (64, 1, 4, 4))


def test_sizes_count_the_batch(content):
    check_onnx(content, (64, 1, 4, 4))
    with pytest.raises(UntrustedCodeError, match="values"):
        check_onnx(content, (LARGEST_TENSOR // 12 + 1, 1, 4, 4))


def test_file_that_is_no_model_is_refused():
    with pytest.raises(ValueError, match="is no ONNX model"):
        check_onnx(b"\xff\xff\xff", (1, 1, 4, 4))


def test_trust_passes_the_model_unchecked(content):
    model = onnx.load_model_from_string(content)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["unused_sizes"], ["unused"]))
    model.graph.initializer.append(helper.make_tensor("unused_sizes", TensorProto.INT64, [1], [3]))
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(UntrustedCodeError, match="ConstantOfShape"):
        run_onnx(model.SerializeToString(), x)
    assert run_onnx(model.SerializeToString(), x, trust=True).shape == (1, 5)
