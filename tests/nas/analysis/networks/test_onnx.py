"""ONNX files: the logits of the exported network, gradients where a converter gives them, and what is refused."""

import re
import sys
import warnings
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from torch import nn

import nas
from evaluators import L2
from evaluators.attacks import HopSkipJump, Square
from evaluators.engine.scores_only import NoGradientError, why_no_gradients
from nas.analysis.compare.compare import compare_networks
from nas.analysis.compare.config import CompareConfig
from nas.analysis.network_source import open_source
from nas.analysis.networks import NetworkOptions, open_network
from nas.analysis.networks.onnx_gradients import ConvertedOnnx
from nas.analysis.networks.onnx_scores import OnnxScores, filled
from nas.analysis.profile import ProfileConfig, profile_network
from nas.data import open_data, open_test
from nas.data.config import DataConfig
from nas.errors import ConfigError, NetworkError

SIZE = {"free": None, "one": 1, "four": 4}


class Two(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        logits = self.body(x)
        return logits.softmax(1), logits


class Calibration(CalibrationDataReader):
    def __init__(self, x):
        self.batches = iter([{"x": part.numpy()} for part in x.split(64)])

    def get_next(self):
        return next(self.batches, None)


def trained():
    """A small convolutional network of digits, trained for a few epochs, and images to calibrate a quantisation on."""
    train = open_data(DataConfig()).train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        )
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(8):
            for batch in torch.randperm(len(train.x)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(train.x[batch]), train.y[batch]).backward()
                optimiser.step()
    return network.eval().requires_grad_(False), train.x[:256]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with ONNX files of one network, and the network."""
    folder = tmp_path_factory.mktemp("onnx")
    network, images = trained()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, size in SIZE.items():
            shapes = ({0: torch.export.Dim("batch")},) if size is None else None
            write(network, images[: size or 2], folder / f"{name}.onnx", shapes)
        write(Two(network), images[:2], folder / "two.onnx", ({0: torch.export.Dim("batch")},), ["probabilities", "logits"])
        for name, form in (("qdq", QuantFormat.QDQ), ("qoperator", QuantFormat.QOperator)):
            source, target = str(folder / "free.onnx"), str(folder / f"{name}.onnx")
            quantize_static(source, target, Calibration(images), quant_format=form)
        quantize_dynamic(str(folder / "free.onnx"), str(folder / "dynamic.onnx"))
    (folder / "damaged.onnx").write_bytes(b"nonsense")
    return folder, network


def write(network, x, path, shapes, outputs=None):
    names = {"input_names": ["x"], "output_names": outputs or ["logits"]}
    torch.onnx.export(network, (x,), path, dynamo=True, external_data=False, dynamic_shapes=shapes, verbose=False, **names)


@pytest.fixture
def digits():
    return open_test(DataConfig()).first(50)


@pytest.fixture
def no_converter(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)


@pytest.fixture
def converter(monkeypatch):
    """A converter that returns a given network."""

    def put(network):
        module = ModuleType("onnx2torch")
        module.convert = lambda model: network
        monkeypatch.setitem(sys.modules, "onnx2torch", module)

    return put


@pytest.mark.usefixtures("no_converter")
class TestScores:
    @pytest.mark.parametrize("name", SIZE)
    @pytest.mark.parametrize("count", [1, 4, 7])
    def test_logits_are_those_of_the_exported_network(self, name, count, exported, digits):
        folder, network = exported
        opened = open_network(str(folder / f"{name}.onnx"))
        assert isinstance(opened, OnnxScores)
        assert torch.allclose(opened(digits.x[:count]), network(digits.x[:count]), atol=1e-4)

    @pytest.mark.parametrize("name", ["qdq", "qoperator", "dynamic"])
    def test_quantised_files_run_in_onnxruntime(self, name, exported, digits):
        folder, network = exported
        opened = open_network(str(folder / f"{name}.onnx"))
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        # Images of dynamic quantisation run one at a time.
        parts = digits.x.split(1 if name == "dynamic" else len(digits.x))
        expected = np.concatenate([session.run(None, {"x": part.numpy()})[0] for part in parts])
        assert np.array_equal(opened(digits.x).numpy(), expected)
        assert (opened(digits.x).argmax(1) == network(digits.x).argmax(1)).float().mean() > 0.9
        assert not torch.equal(opened(digits.x), network(digits.x))
        assert why_no_gradients(opened) == "the file runs in onnxruntime, because the file is quantised"

    def test_images_of_dynamic_quantisation_are_independent(self, exported, digits):
        network = open_network(str(exported[0] / "dynamic.onnx"))
        x = digits.x[:8].clone()
        before = network(x)[0]
        x[1:] = torch.rand(7, *x.shape[1:], generator=torch.Generator().manual_seed(0))
        assert torch.equal(network(x)[0], before)

    def test_one_of_several_outputs(self, exported, digits):
        folder, network = exported
        source = str(folder / "two.onnx")
        assert set(open_network(source)(digits.x)) == {"probabilities", "logits"}
        opened = open_network(source, options=NetworkOptions(output="logits"))
        assert torch.allclose(opened(digits.x), network(digits.x), atol=1e-4)
        with pytest.raises(
            NetworkError, match=r"got dict with probabilities: \(1, 10\), logits: .*--output logits \(output="
        ):
            profile_network(source, ProfileConfig(data=DataConfig(), images=5))

    def test_gradients_are_refused(self, exported, digits):
        opened = open_network(str(exported[0] / "free.onnx"))
        with pytest.raises(
            NoGradientError, match=r"the network has no gradients: .* onnx2torch is not installed; .*'hardcell\["
        ):
            opened(digits.x.clone().requires_grad_())
        assert not opened(digits.x).requires_grad

    def test_other_images_are_refused_with_the_size(self, exported, digits):
        source = str(exported[0] / "free.onnx")
        test = {"name": "digits"}
        with pytest.raises(
            NetworkError, match=r"free.onnx: takes images 1 x 8 x 8 .*, got 1 x 9 x 9; use --resize 8 \(resize\)"
        ):
            profile_network(source, ProfileConfig(data=DataConfig(**test)), options=NetworkOptions(resize=9))
        with pytest.raises(ValueError, match=r"got 3 x 8 x 8; use the data that it was made for"):
            open_network(source)(torch.rand(1, 3, 8, 8))

    def test_network_takes_the_resized_and_normalised_images(self, exported):
        folder, network = exported
        x = torch.rand(3, 1, 16, 16)
        opened = open_network(str(folder / "free.onnx"), options=NetworkOptions(resize=8, mean=0.1, std=0.5))
        small = nn.functional.interpolate(x, (8, 8), mode="bilinear", antialias=True)
        assert torch.allclose(opened(x), network((small - 0.1) / 0.5), atol=1e-3)


def test_last_batch_is_filled_up():
    x = torch.arange(7.0)[:, None]
    parts = filled(x, 3)
    assert [(part.flatten().tolist(), count) for part, count in parts] == [([0, 1, 2], 3), ([3, 4, 5], 3), ([6, 6, 6], 1)]
    assert [(len(part), count) for part, count in filled(x, None)] == [(7, 7)]


class TestConverter:
    @pytest.mark.parametrize("name", SIZE)
    def test_network_has_gradients(self, name, exported, converter, digits):
        folder, network = exported
        converter(network)
        opened = open_network(str(folder / f"{name}.onnx"))
        assert isinstance(opened, ConvertedOnnx)
        x = digits.x[:7].clone().requires_grad_()
        (actual,) = torch.autograd.grad(opened(x)[:, 3].sum(), x)
        (expected,) = torch.autograd.grad(network(x)[:, 3].sum(), x)
        assert torch.allclose(actual, expected, atol=1e-5)

    def test_wrong_conversion_is_noticed(self, exported, converter):
        folder, network = exported
        converter(nn.Sequential(network, nn.Softmax(1)))
        opened = open_network(str(folder / "free.onnx"))
        assert isinstance(opened, OnnxScores)
        assert re.search(r"because onnx2torch converts it wrongly \(relative difference of the logits \d", opened.reason)

    def test_missing_operator(self, exported, converter):
        converter(nn.Linear(3, 3))
        assert "onnx2torch cannot convert it (RuntimeError: " in open_network(str(exported[0] / "free.onnx")).reason

    def test_quantised_file_is_not_converted(self, exported, converter):
        folder, network = exported
        converter(network)
        assert isinstance(open_network(str(folder / "qdq.onnx")), OnnxScores)

    @pytest.mark.parametrize("name", [*SIZE, "two"])
    def test_real_converter(self, name, exported, digits):
        pytest.importorskip("onnx2torch")
        folder, network = exported
        output = "logits" if name == "two" else None
        opened = open_network(str(folder / f"{name}.onnx"), options=NetworkOptions(output=output))
        assert why_no_gradients(opened) is None
        x = digits.x[:6].clone().requires_grad_()
        (actual,) = torch.autograd.grad(opened(x)[:, 3].sum(), x)
        (expected,) = torch.autograd.grad(network(x)[:, 3].sum(), x)
        assert torch.allclose(actual, expected, atol=1e-4)


def tiny(path, inputs, kind=TensorProto.FLOAT, output=None):
    """Writes a file whose only node returns the first input, or `output`."""
    values = [helper.make_tensor_value_info(f"i{n}", kind, shape) for n, shape in enumerate(inputs)]
    node = helper.make_node(output or "Identity", ["i0"], ["o"])
    ends = [helper.make_tensor_value_info("o", kind, None)]
    if output is not None:
        ends = [helper.make_tensor_sequence_value_info("o", kind, None)]
    graph = helper.make_graph([node], "tiny", values, ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        (
            [(1, 3, 8, 8), (1, 2)],
            TensorProto.FLOAT,
            r"must have one input, the images, found i0 \(1, 3, 8, 8\), i1 \(1, 2\); exp",
        ),
        ([(1, 3, 8, 8)], TensorProto.UINT8, r"must take float32 images, a tensor\(float\), got tensor\(uint8\); convert"),
        ([(1, 3, 8, 8)], TensorProto.FLOAT16, r"must take float32 images, a tensor\(float\), got tensor\(float16\)"),
        ([("n", 64)], TensorProto.FLOAT, r"must take images \(N, C, H, W\), got the shape \(n, 64\); reshape inside"),
        ([(None, 8, 8, 3)], TensorProto.FLOAT, r"got \(N, H, W, C\), \(\?, 8, 8, 3\); transpose inside the model"),
    ],
)
def test_inputs_that_are_not_images(inputs, kind, message, tmp_path):
    with pytest.raises(NetworkError, match=message):
        open_network(tiny(tmp_path / "tiny.onnx", inputs, kind))


def test_output_that_is_no_tensor(tmp_path):
    path = tiny(tmp_path / "tiny.onnx", [(1, 3, 8, 8)], output="SequenceConstruct")
    with pytest.raises(
        NetworkError, match=r"must return logits, a tensor \(N, K\), found o seq\(tensor\(float\)\); export it"
    ):
        open_network(path)


def test_damaged_file(exported):
    with pytest.raises(
        NetworkError, match=r"damaged.onnx: cannot be opened by onnxruntime: .*; export it again, or write a func"
    ):
        open_network(str(exported[0] / "damaged.onnx"))


def with_weights_elsewhere(path, location):
    """Writes a linear classifier whose weights are in another file."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 10], data_location=TensorProto.EXTERNAL)
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["o"])]
    ends = [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)]
    start = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 1, 8, 8))]
    graph = helper.make_graph(nodes, "linear", start, ends, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.usefixtures("no_converter")
def test_weights_in_another_file_of_the_folder_only(tmp_path):
    weights = np.random.default_rng(0).random((64, 10), dtype=np.float32)
    (tmp_path / "folder").mkdir()
    for folder in (tmp_path, tmp_path / "folder"):
        (folder / "w.bin").write_bytes(weights.tobytes())
    x = torch.rand(2, 1, 8, 8)
    opened = open_network(with_weights_elsewhere(tmp_path / "folder" / "net.onnx", "w.bin"))
    assert torch.allclose(opened(x), x.flatten(1) @ torch.from_numpy(weights), atol=1e-5)
    for location in ("../w.bin", str(tmp_path / "w.bin")):
        with pytest.raises(NetworkError, match=r"net\.onnx: cannot be opened by onnxruntime: "):
            open_network(with_weights_elsewhere(tmp_path / "folder" / "net.onnx", location))


def test_operators_outside_onnx_are_not_loaded(tmp_path):
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 1, 8, 8))
    logits = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Own", ["x"], ["o"], domain="own")], "own", [images], [logits])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "own.onnx")
    with pytest.raises(NetworkError, match=r"own.onnx: cannot be opened by onnxruntime: .*own:Own.* is not a registered"):
        open_network(str(tmp_path / "own.onnx"))


class TestMeasurements:
    def test_profile_without_gradients_runs_attacks_on_scores(self, exported):
        config = ProfileConfig(data=DataConfig(), images=8, epsilons={"linf": (0.1, 0.3)})
        measured = profile_network(str(exported[0] / "qdq.onnx"), config)
        entries = measured.record["attacks"]
        assert {name: entry["config"]["name"] for name, entry in entries.items()} == {
            "square": "square",
            "hop_skip_jump": "hop_skip_jump",
        }
        assert entries["square"]["error"][-1] > 0.9
        assert measured.record["cost"] == {"parameters": None, "macs": None}
        assert measured.record["margins"]["first_order"] == {}
        assert measured.failed_checks() == ["enough_images"]

    def test_transfer_from_a_network_with_gradients(self, exported, converter):
        folder, network = exported
        converter(network)
        config = ProfileConfig(
            data=DataConfig(),
            attacks={"square": Square(queries=20)},
            images=20,
            epsilons={"linf": (0.3,)},
            transfer=(str(folder / "free.onnx"),),
        )
        assert profile_network(str(folder / "qdq.onnx"), config).record["attacks"]["transfer_1"]["error"][0] > 0.8

    @pytest.mark.usefixtures("no_converter")
    def test_attack_by_gradients_is_refused(self, exported):
        config = ProfileConfig(data=DataConfig(), attacks={"mine": nas.ProfileConfig().attacks["pgd"]})
        message = (
            r"free.onnx: has no gradients, but these attacks need them: mine. The file runs in .* Use --attack square or"
        )
        with pytest.raises(ConfigError, match=message):
            profile_network(str(exported[0] / "free.onnx"), config)

    @pytest.mark.usefixtures("no_converter")
    def test_source_of_transfer_needs_gradients(self, exported):
        source = str(exported[0] / "free.onnx")
        config = ProfileConfig(data=DataConfig(), transfer=(source,))
        with pytest.raises(
            ConfigError, match=r"free.onnx: cannot be a source of transfer, because PGD needs its gradients: the"
        ):
            profile_network(exported[1], config)

    @pytest.mark.usefixtures("no_converter")
    def test_comparison_runs_the_same_attacks_on_all(self, exported):
        folder, network = exported
        sources = [open_source(str(folder / name)) for name in ("free.onnx", "qdq.onnx")]
        attacks = {"square": Square(queries=30), "hop": HopSkipJump(queries=100)}
        config = CompareConfig(attacks=attacks, epsilons=(0.2,), images=10)
        compared = compare_networks([*sources, network], config)
        assert list(compared.radii) == ["free.onnx", "qdq.onnx", "Sequential"]
        assert compared.radii["free.onnx"] == pytest.approx(compared.radii["Sequential"])
        with pytest.raises(ConfigError, match=r"--epsilon \(epsilons\) must be given, because no network has gradients"):
            compare_networks(sources, CompareConfig(attacks=attacks, images=10))

    def test_surface_runs_square(self, exported):
        config = nas.SurfaceConfig(image=0, epsilon=0.4, points=5)
        surfaces = nas.surface(str(exported[0] / "qdq.onnx"), config)
        assert surfaces.config.attack == Square(queries=1000)
        assert "adversarial" in surfaces.endpoints

    def test_norm_of_the_default_attacks(self):
        from nas.analysis.score_attacks import needs_gradients, score_attacks

        attacks = score_attacks("l2")
        assert {attack.norm for attack in attacks.values()} == {L2()}
        assert not any(map(needs_gradients, attacks.values()))
        assert all(map(needs_gradients, nas.ProfileConfig().attacks.values()))
