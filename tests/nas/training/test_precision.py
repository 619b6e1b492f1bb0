"""Choice of the precision by measuring a training step."""

import dataclasses

import pytest
import torch
from torch import nn

import nas
import nas.training.precision as module
from nas.training.config import TrainingConfig
from nas.training.precision import SHORT, default_precision, faster_precision, has_bfloat16

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch):
    """Scripts the seconds of a step in float32 and in bfloat16; returns the precisions of the measured steps."""
    measured = []

    def script(float32, bfloat16):
        def seconds(network, x, *, bfloat16, scripted=(float32, bfloat16)):
            measured.append(bfloat16)
            return scripted[bfloat16] * (1 + 0.1 * len(measured))

        monkeypatch.setattr(module, "_seconds", seconds)
        return measured

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    return script


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [(0.1, 0.05, "bfloat16"), (0.1, 0.07, "float32"), (0.1, 0.2, "float32"), (SHORT / 2, SHORT / 9, "float32")],
)
def test_the_faster_precision_needs_a_clear_gain_and_a_long_step(timed, float32, bfloat16, chosen):
    measured = timed(float32, bfloat16)
    assert faster_precision(nn.Linear(4, 2), torch.rand(3, 4)) == chosen
    assert (True in measured) is (float32 >= SHORT)


def test_processors_without_bfloat16_are_not_measured(timed, monkeypatch):
    measured = timed(0.1, 0.01)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not has_bfloat16(CPU)
    assert faster_precision(nn.Linear(4, 2), torch.rand(3, 4)) == "float32"
    assert measured == []
    assert default_precision(CPU) == "float32"


def test_the_network_and_the_generator_are_left_as_they_were(conv, images, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(module, "SHORT", 0)
    network, state = nn.Sequential(conv(), nn.Dropout()).eval(), torch.get_rng_state()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert faster_precision(network, images(8)) in ("float32", "bfloat16")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_fails_is_left_to_the_training(timed):
    timed(0.1, 0.05)

    class Uncopied(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("cannot be copied")

    assert faster_precision(Uncopied(), torch.rand(3, 4)) == "float32"


@pytest.mark.filterwarnings("ignore:.*there are only", "ignore:.*split has no image of")
@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.bfloat16), ("float32", torch.float32)])
def test_a_training_uses_the_faster_precision(timed, precision, dtype):
    timed(0.1, 0.05)
    seen = set()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    network[1].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype) if module.training else None)
    config = TrainingConfig(precision=precision, epochs=1)
    nas.train(network, (torch.rand(30, 1, 8, 8), torch.arange(30) % 3), "standard", config=config)
    assert seen == {dtype}


@pytest.mark.parametrize(
    ("change", "stored"),
    [((), "bfloat16"), (("training.precision=float32",), "float32"), ((), "auto")],
)
def test_a_search_stores_the_faster_precision(timed, tiny, tmp_path, monkeypatch, change, stored):
    timed(0.1, 0.05)
    monkeypatch.setattr("nas.pipeline.prepare.SMALL_IMAGE", 1)
    settings = ("search.trials=1", "search.random_trials=1", "finalists.references=false", "finalists.epochs=1")
    if stored == "auto":
        path = tmp_path / "own.py"
        path.write_text("from search_spaces import cell201\n\n\ndef own():\n    return cell201(channels=4, stages=1)\n")
        config = tiny(*settings, f"space={{name: '{path}:own'}}")
    else:
        config = tiny(*settings, *change)
    run = nas.search(config, tmp_path / "run")
    assert run.config.training.precision == stored
    assert nas.load_config(tmp_path / "run" / "config.yaml").training.precision == stored
    assert dataclasses.replace(run.config.training, precision="auto") == dataclasses.replace(
        config.training, precision="auto"
    )
