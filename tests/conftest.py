"""Fixtures shared by several test folders."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

# One thread per process, because pytest-xdist already uses all cores. The order of sums is then the same on every machine.
torch.set_num_threads(1)

# Every run uses the same examples. They have no time limit, because the first call of an operation is slow.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("repeatable")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture
def smallest():
    """Overrides of a config that make its search as short as possible."""
    return [
        "threads=1",
        "data.limit=120",
        "training.epochs=1",
        "search.trials=2",
        "search.random_trials=1",
        "finalists.count=1",
        "finalists.epochs=1",
        "finalists.images=40",
        "finalists.references=false",
        "finalists.attacks={fgsm: fgsm}",
        "finalists.forms=[weights]",
    ]


@pytest.fixture
def shared_data():
    folder = Path(os.environ.get("HARDCELL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set HARDCELL_DATA to the data folder")
    return folder


@pytest.fixture
def linear():
    """A factory of linear networks: logits = scale * (weight @ pixels + bias). The weight (K, D) is random by default."""

    def make(classes=2, pixels=64, *, seed=0, weight=None, bias=None, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        if weight is None:
            weight = torch.randn(classes, pixels, generator=generator)
        # By default, all logits are 0 at pixels of 0.5. So images near 0.5 lie on both sides of every decision boundary.
        bias = -0.5 * weight.sum(1) if bias is None else bias
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": scale * weight, "bias": scale * bias})
        return nn.Sequential(nn.Flatten(), layer).eval()

    return make


@pytest.fixture
def conv():
    """A factory of small convolutional networks with random weights for images (C, 8, 8)."""

    def make(classes=4, channels=1, *, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(channels, 6, 3, padding=1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Flatten(),
                nn.Linear(128, classes),
            ).eval()

    return make


@pytest.fixture
def images():
    """A factory of random images (N, C, 8, 8) with pixels between low and high."""

    def make(n=16, channels=1, *, seed=0, low=0.0, high=1.0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        return low + (high - low) * torch.rand(n, channels, 8, 8, generator=generator, dtype=dtype)

    return make
