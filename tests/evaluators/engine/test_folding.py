"""Folding of batch norm: the logits and gradients of the network, for every kind of layer and after every change."""

import pytest
import torch
from torch import nn

from evaluators.engine.folding import fold


def settled(network, x):
    """Returns the network with random weights and statistics of batch norm."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                if values is not None:
                    values.data.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    return network.eval()


def images(*shape):
    return torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))


def input_gradient(network, x):
    points = x.clone().requires_grad_()
    return torch.autograd.grad(network(points).square().sum(), points)[0]


def assert_same(network, folded, x):
    torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(input_gradient(folded, x), input_gradient(network, x), rtol=1e-4, atol=1e-4)


class Called(nn.Module):
    """A network from a function of its layers and the images."""

    def __init__(self, call, **layers):
        super().__init__()
        self.call, self.layers = call, nn.ModuleDict(layers)

    def forward(self, x):
        return self.call(self.layers, x).flatten(1)


FOLDED = {
    "no bias": (nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 6, 6)),
    "bias": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), (2, 6, 6)),
    "no gains": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 6, 6)),
    "groups": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=1), nn.BatchNorm2d(8)), (4, 6, 6)),
    "dilation": (nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2, padding="same"), nn.BatchNorm2d(4, eps=0.1)), (2, 6, 6)),
    "one axis": (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (2, 9)),
    "three axes": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2)), (1, 4, 4, 4)),
}


@pytest.mark.parametrize("case", FOLDED)
def test_batch_norm_is_folded(case):
    layers, shape = FOLDED[case]
    x = images(*shape)
    network = settled(nn.Sequential(layers, nn.ReLU(), nn.Flatten()), x)
    folded = fold(network, x)
    assert len(folded.layers) == 1
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    assert_same(network, folded, x)


KEPT = {
    "no statistics": nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
    "reflected": nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)),
    "before": nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3)),
    "between": nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    "two uses": Called(lambda m, x: m["norm"](c := m["conv"](x)) + c, conv=nn.Conv2d(2, 4, 3), norm=nn.BatchNorm2d(4)),
    "two calls": Called(
        lambda m, x: m["norm"](m["conv"](x)) + m["norm"](x), conv=nn.Conv2d(2, 2, 1), norm=nn.BatchNorm2d(2)
    ),
    "subclass": nn.Sequential(
        type("Other", (nn.Conv2d,), {"forward": lambda self, x: x[:, :1] * 2})(2, 1, 1), nn.BatchNorm2d(1)
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_other_layers_are_kept(case):
    x = images(2, 5, 5)
    network = settled(nn.Sequential(KEPT[case], nn.Flatten()), x)
    folded = fold(network, x)
    assert folded.layers == []
    assert_same(network, folded, x)


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        yield


def test_follows_the_weights_once_it_is_stale():
    x = images(2, 6, 6)
    network = settled(conv_net(), x)
    folded = fold(network, x)
    before = folded(x)
    network.load_state_dict({name: value * 1.5 for name, value in network.state_dict().items()})
    # The last layer is not folded, so its weights count at once.
    assert not torch.allclose(folded(x), network(x))
    folded.stale = True
    assert_same(network, folded, x)
    assert not torch.allclose(folded(x), before)


def test_weights_of_folded_layers_have_no_gradients():
    x = images(2, 6, 6)
    network = settled(conv_net(), x)
    fold(network, x)(x).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is not None] == ["6.weight", "6.bias"]


def test_the_network_is_left_as_it_was():
    x = images(2, 6, 6)
    network = settled(conv_net(), x)
    names, strides = list(network.state_dict()), network[0].weight.stride()
    fold(network, x)(x)
    assert list(network.state_dict()) == names
    assert network[0].weight.stride() == strides
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_cannot_be_traced_is_called_as_it_is():
    x = images(2, 6, 6)
    network = Called(lambda m, x: m["conv"](x if x.mean() > 0 else -x), conv=nn.Conv2d(2, 3, 3)).eval()
    folded = fold(network, x)
    assert folded.body is network
    assert torch.equal(folded(-x), network(-x))
