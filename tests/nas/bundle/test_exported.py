"""A .pt2 archive is data: what could run code is refused before torch reads it."""

import io
import json
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.bundle.export_formats import write_formats
from nas.bundle.exported import LARGEST_TENSOR, checked_archive, open_exported, strip_archive
from nas.resolve import UntrustedCodeError
from search_spaces import SPACES

PROGRAM = "archive/models/model.json"
WEIGHTS = "archive/data/weights/model_weights_config.json"


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding="same"), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def original(network):
    """The archive as torch writes it, with pickled sample inputs and the paths of this machine."""
    program = torch.export.export(network, (torch.rand(2, 1, 4, 4),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    archive = io.BytesIO()
    torch.export.save(program, archive)
    return archive.getvalue()


@pytest.fixture
def changed(original, tmp_path):
    """A factory of files with changed entries; an entry is bytes, or a function that changes the parsed JSON."""

    def make(changes, *, compression=zipfile.ZIP_STORED):
        path = tmp_path / "changed.pt2"
        with zipfile.ZipFile(io.BytesIO(original)) as source, zipfile.ZipFile(path, "w", compression) as target:
            entries = {name: source.read(name) for name in source.namelist()}
            for name, change in changes.items():
                if callable(change):
                    content = json.loads(entries[name])
                    change(content)
                    change = json.dumps(content).encode()
                entries[name] = change
            for name, content in entries.items():
                target.writestr(name, content)
        return path

    return make


def nodes(program):
    return program["graph_module"]["graph"]["nodes"]


def pickled(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def test_network_is_that_of_the_archive(original, network, tmp_path):
    (tmp_path / "a.pt2").write_bytes(original)
    x = torch.rand(7, 1, 4, 4)
    for trust in (False, True):
        assert torch.allclose(open_exported(tmp_path / "a.pt2", trust=trust)(x), network(x), atol=1e-6)


def test_stripped_archive_has_no_pickle_and_no_path(original):
    stripped = strip_archive(original)
    assert b"test_exported.py" in original
    assert str(Path(__file__).parent).encode() in original
    assert b"test_exported.py" not in stripped
    assert str(Path(__file__).parent).encode() not in stripped
    with zipfile.ZipFile(io.BytesIO(stripped)) as archive:
        assert archive.read("archive/data/sample_inputs/model.pt") == b""
    assert checked_archive(stripped) == checked_archive(original)


def test_sample_inputs_are_not_unpickled(changed, network, tmp_path):
    path = changed({"archive/data/sample_inputs/model.pt": pickled(Payload(tmp_path / "ran"))})
    x = torch.rand(2, 1, 4, 4)
    assert torch.allclose(open_exported(path)(x), network(x), atol=1e-6)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception):  # noqa: B017 (torch's error depends on its version)
        open_exported(path, trust=True)
    assert (tmp_path / "ran").exists()  # With trust, the planted code runs.


def test_weights_are_not_unpickled(changed, tmp_path):
    def plant(config):
        next(iter(config["config"].values()))["use_pickle"] = True

    changes = {WEIGHTS: plant, "archive/data/weights/weight_0": pickled(Payload(tmp_path / "ran"))}
    with pytest.raises(UntrustedCodeError, match="a pickle, for the tensor"):
        open_exported(changed(changes))
    assert not (tmp_path / "ran").exists()


def in_expression(program, text):
    for meta in program["graph_module"]["graph"]["tensor_values"].values():
        for size in meta["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = text


def test_expressions_are_not_evaluated(changed, tmp_path):
    code = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"
    path = changed({PROGRAM: lambda program: in_expression(program, code)})
    with pytest.raises(UntrustedCodeError, match="the expression"):
        open_exported(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception):  # noqa: B017
        open_exported(path, trust=True)
    assert (tmp_path / "ran").exists()  # With trust, the planted code runs.


@pytest.mark.parametrize(
    "text",
    [
        "Symbol(open('x'))",
        "Symbol('s0', positive=exit())",
        "().__class__",
        "lambda: 0",
        "Max(s0, [1])",
        "9**9**9",
        "s0.evalf",
        "Symbol('s0; x')",
        "1" * 4000,
        "(" * 500 + ")" * 500,
        "print",
    ],
)
def test_expression_that_is_no_arithmetic_is_refused(text, changed):
    with pytest.raises(UntrustedCodeError):
        open_exported(changed({PROGRAM: lambda program: in_expression(program, text)}))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.load_library.default",
        "torch.ops.prim.Print.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten._reshape_alias.default",
        "torch.ops.aten.set_.source_Tensor_storage_offset",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.item.default",
        "torch.ops.aten.chr.default",
        "torch.ops.aten.join.default",
        "torch.ops.aten.dict.default",
        "torch.ops.aten.empty.memory_format",
        "_operator.attrgetter",
        "_operator.call",
        "math.sqrt",
        "#extension:op",
        "torch.ops.higher_order.cond",
        "print",
    ],
)
def test_operator_that_is_not_allowed_is_refused(target, changed):
    def plant(program):
        nodes(program)[0]["target"] = target

    with pytest.raises(UntrustedCodeError, match="the operator"):
        open_exported(changed({PROGRAM: plant}))


def put(*place, value):
    def plant(program):
        *front, last = place
        for key in front:
            program = program[key]
        program[last] = value

    return plant


GRAPH = ("graph_module", "graph")
INJECTION = "x): pass\nprint('ran')\ndef f(self"


@pytest.mark.parametrize(
    "plant",
    [
        put(*GRAPH, "inputs", -1, "as_tensor", "name", value=INJECTION),
        put(*GRAPH, "nodes", 0, "name", value=INJECTION),
        put(*GRAPH, "nodes", 0, "inputs", 0, "name", value="self=print('ran'), x"),
        put("graph_module", "signature", "input_specs", 0, "parameter", "parameter_name", value="a b"),
        put("graph_module", "signature", "input_specs", 0, "parameter", "parameter_name", value="__new__.__globals__"),
        put(*GRAPH, "nodes", 0, "name", value="__class__"),
        put(*GRAPH, "nodes", 0, "target", value="_operator.mod"),
        put("graph_module", "module_call_graph", 0, "signature", "in_spec", value='[1, {"type": "os.system"}]'),
        put("graph_module", "module_call_graph", 0, "signature", "in_spec", value="[" * 100_000),
        put(*GRAPH, "custom_obj_values", value={"a": {"name": "a", "class_fqn": "b"}}),
        put("guards_code", value=["print('ran')"]),
        put("anything", value="x"),
        put(*GRAPH, "nodes", 0, "inputs", 0, "arg", value={"as_string": "/etc/passwd"}),
        put(*GRAPH, "nodes", 0, "inputs", 0, "arg", value={"as_operator": "torch.load"}),
        put(*GRAPH, "nodes", 0, "inputs", 0, "arg", value={"as_graph": {"name": "g"}}),
        put(*GRAPH, "tensor_values", value={"a b": {}}),
        put("range_constraints", value={"s0": {"min_val": 10**30, "max_val": None}}),
    ],
)
def test_what_the_exporter_does_not_write_is_refused(plant, changed, capsys):
    with pytest.raises(UntrustedCodeError):
        open_exported(changed({PROGRAM: plant}))
    assert "ran" not in capsys.readouterr().out


IMAGE = {"name": "self", "arg": {"as_tensor": {"name": "input"}}, "kind": 1}


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("ones", [{"as_ints": [LARGEST_TENSOR, 4]}]),
        ("ones", [{"as_sym_ints": [{"as_int": LARGEST_TENSOR}, {"as_int": 4}]}]),
        ("arange", [{"as_int": 2**40}]),
        ("new_zeros", [IMAGE["arg"], {"as_ints": [2**20, 2**20]}]),
    ],
)
def test_huge_tensors_are_refused(target, arguments, changed):
    def plant(program):
        image = program["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"]
        inputs = json.loads(json.dumps(arguments).replace('"input"', f'"{image}"'))
        names = ("self", "size") if len(inputs) == 2 else ("end",) if target == "arange" else ("size",)
        nodes(program)[0].update(
            target=f"torch.ops.aten.{target}.default",
            inputs=[{"name": name, "arg": argument, "kind": 1} for name, argument in zip(names, inputs, strict=True)],
        )

    with pytest.raises(UntrustedCodeError, match="values"):
        open_exported(changed({PROGRAM: plant}))


@pytest.mark.parametrize(
    "meta",
    [
        {"sizes": [{"as_int": 10**12}]},
        {"storage_offset": {"as_int": 10**9}},
        {"strides": [{"as_int": -1}]},
        {"strides": [{"as_int": 10**9}] * 4},
        {"sizes": "x"},
    ],
)
def test_tensor_beyond_its_bytes_is_refused(meta, changed):
    def plant(config):
        next(iter(config["config"].values()))["tensor_meta"].update(meta)

    with pytest.raises(UntrustedCodeError):
        open_exported(changed({WEIGHTS: plant}))


@pytest.mark.parametrize(
    "name", ["archive/extra/code.py", "archive/../../x", "/archive/x", "archive/data/aotinductor/model/a.so"]
)
def test_other_entries_are_refused(name, changed):
    with pytest.raises(UntrustedCodeError, match="the entry"):
        open_exported(changed({name: b"x"}))


def test_compressed_entries_are_refused(changed):
    with pytest.raises(UntrustedCodeError, match="compressed"):
        open_exported(changed({}, compression=zipfile.ZIP_DEFLATED))


def test_entry_twice_is_refused(changed, tmp_path):
    path = changed({})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(PROGRAM, b"{}")
    with pytest.raises(UntrustedCodeError, match="the entry"):
        open_exported(path)


@pytest.mark.parametrize("name", sorted(set(SPACES) - {"cells"}))
def test_networks_of_every_space_are_read_without_trust(name, tmp_path):
    options = {"cell201": {"channels": 4, "cells_per_stage": 1}, "robnet": {"channels": 4, "layers": 3}}
    options["nasnet"] = {"channels": 4, "cells_per_stage": 1, "stages": 2}
    options["macro"] = {"stages": 1}
    options["darts"] = options["robnet"]
    space = SPACES[name](**options.get(name, {}))
    network = space.build(space.sample(random.Random(1)), (1, 16, 16), 3).eval()
    write_formats(network, torch.rand(2, 1, 16, 16), tmp_path, {}, ["model.pt2"])
    x = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(open_exported(tmp_path / "model.pt2")(x), network(x), atol=1e-4)
