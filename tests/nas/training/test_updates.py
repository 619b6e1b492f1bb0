"""Updates of the weights: no values are read in them, as this would wait for a GPU."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from evaluators import FGSM, Square
from evaluators.attacks.usable_gradients import one_gradient_warning, usable
from nas.data import open_data
from nas.data.config import DataConfig
from nas.training.config import TrainingConfig
from nas.training.network import build_network
from nas.training.optimiser import peak_rate
from nas.training.recipes import RECIPES, Standard
from nas.training.train import train
from search_spaces import cell201

# Operations whose result Python reads, or whose size depends on values. On a GPU, the program waits for them.
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default}


class Reads(TorchDispatchMode):
    """Counts operations that wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in READS
        return function(*args, **kwargs or {})


def reads(config, data):
    """Returns how often one epoch reads values."""
    space = cell201(channels=4, cells_per_stage=1, stages=1)
    architecture = dict.fromkeys(space.choices, "conv1x1")
    network = build_network(space, architecture, data.train.x, 10, 0)
    with Reads() as mode:
        list(train(network, data, config, epsilon=0.1, epochs=1, seed=0))
    return mode.count


@pytest.mark.parametrize("name", RECIPES)
def test_more_batches_do_not_read_more_values(name):
    data = open_data(DataConfig(limit=300))
    config = TrainingConfig(recipe=RECIPES[name](), selection=FGSM(), shift=1, flip=True, cutout=2, clip_gradients=1.0)
    counts = [reads(dataclasses.replace(config, batch_size=size), data) for size in (16, 80)]
    assert counts[0] == counts[1] > 0


class Root(nn.Module):
    """A linear layer behind the square root, whose gradient is infinite at 0."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.sqrt().flatten(1))


def test_gradients_that_are_not_finite_give_one_warning_an_epoch():
    data = open_data(DataConfig(limit=300))
    config = TrainingConfig(recipe=RECIPES["pgd"](epsilon=0.1, steps=2), selection=Square(queries=2), average=False)
    with pytest.warns(UserWarning, match="NaN or infinite entries at") as warnings:
        list(train(Root(), data, config, epsilon=0.1, epochs=2, seed=0))
    # Each image of an epoch has two gradients. Almost all images have a black pixel.
    points = 2 * (len(data.train.x) // 16 * 16)
    counts = [re.search(r"at (\d+) of (\d+) points", str(warning.message)) for warning in warnings]
    assert [int(count[2]) for count in counts] == [points, points]
    assert all(int(count[1]) > 100 for count in counts)
    assert {Path(warning.filename).name for warning in warnings} == {"train.py"}


def test_unusable_gradients_are_set_to_zero_and_counted_in_the_context():
    gradients = torch.tensor([[1.0, math.nan], [2.0, 3.0], [math.inf, -1.0]])
    expected = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, -1.0]])
    parts = [gradients, gradients[1:2].expand(5, 2), gradients[:1]]

    def collected():
        with one_gradient_warning():
            return [usable(part) for part in parts]

    with pytest.warns(UserWarning, match="at 3 of 9 points") as warnings:
        results = collected()
    assert len(warnings) == 1
    assert all(map(torch.equal, results, [expected, parts[1], expected[:1]]))
    with pytest.warns(UserWarning, match="at 2 of 3 points"):
        assert torch.equal(usable(gradients), expected)


def test_an_error_in_the_context_ends_it():
    with pytest.raises(RuntimeError), one_gradient_warning():
        raise RuntimeError
    with pytest.warns(UserWarning, match="at 1 of 1 points"):
        usable(torch.tensor([[math.nan]]))


@pytest.mark.parametrize(("name", "batch_size"), [("sgd", None), ("adamw", None), ("adamw", 100)])
def test_rules_of_batch_and_learning_rate_are_those_of_a_config_that_names_them(name, batch_size):
    data = open_data(DataConfig(limit=1000))
    images = batch_size or 32  # 563 training images.
    rule = TrainingConfig(recipe=Standard(), optimiser=name, batch_size=batch_size, selection_from=1, selection=FGSM())
    named = dataclasses.replace(rule, batch_size=images, learning_rate=peak_rate(name, None, images))
    weights = []
    for config in (rule, named):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        list(train(network, data, config, epsilon=0.1, epochs=1, seed=0))
        weights.append(network[1].weight.detach())
    assert torch.equal(*weights)
