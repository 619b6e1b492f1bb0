"""Fast inference: a folded network with the same logits and gradients, or the unchanged network."""

import random
import warnings

import torch
from torch import nn

from evaluators import PGD, radii
from evaluators.engine.channels_last import is_channels_last
from evaluators.engine.fast_inference import MIN_ATTEMPTS_TO_FUSE, inference
from evaluators.engine.folding import Folding, folded_weights


def settled(network, x):
    """Returns the network with running statistics that differ from the initial ones."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(x * 0.7 + 0.1)
    return network.eval()


def batch_norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def input_gradient(network, x):
    points = x.clone().requires_grad_()
    return torch.autograd.grad(network(points).square().sum(), points)[0]


def test_batch_norm_is_folded_and_nothing_else_changes(conv, images):
    x = images(16)
    network = settled(conv(), x)
    with inference(network, x) as fast:
        assert fast is not network
        assert len(folded_weights(fast)) == 1
        torch.testing.assert_close(fast(x), network(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(input_gradient(fast, x), input_gradient(network, x), rtol=1e-4, atol=1e-6)
        assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert folded_weights(network) == []


def test_convolutions_without_batch_norm_use_channels_last(images):
    x = images(8)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 3)).eval()
    with inference(network, x) as fast:
        assert is_channels_last(fast)
        torch.testing.assert_close(fast(x), network(x), rtol=1e-5, atol=1e-6)
    assert not is_channels_last(network)


def test_a_folded_network_is_used_as_it_is(conv, images):
    x = images(8)
    network = settled(conv(), x)
    with Folding(network, x).applied(), inference(network, x) as fast:
        assert fast is network


def test_too_little_work_is_not_worth_folding(conv, images):
    network, x = conv(), images(4)
    with inference(network, x, MIN_ATTEMPTS_TO_FUSE - 1) as fast:
        assert fast is network
    with inference(network, x, MIN_ATTEMPTS_TO_FUSE) as fast:
        assert fast is not network


def test_network_is_left_as_it_was(conv, images):
    network = conv().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network[0].weight.requires_grad_(False)
    strides = network[3].weight.stride()
    with inference(network, images(4)):
        pass
    assert all(module.training for module in network.modules())
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["0.weight"]
    assert network[3].weight.stride() == strides
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Branches(nn.Module):
    """A network whose control flow depends on the pixels, so that it cannot be traced."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) if x.mean() > 0 else self.network(1 - x)


class Noisy(nn.Module):
    """A network that adds a random number in each pass, so that its logits cannot be compared."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + random.random()


class Shared(nn.Module):
    """A network that uses one convolution twice, before two batch norms. Neither can be folded into it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, x):
        return self.head(self.second(self.conv(self.first(self.conv(x)))))


def test_a_shared_convolution_keeps_its_batch_norms(images):
    x = images(8)
    network = settled(Shared(), x)
    with inference(network, x) as fast:
        assert folded_weights(fast) == []
        torch.testing.assert_close(fast(x), network(x), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_traced_keeps_its_control_flow(conv, images):
    x = images(8)
    network = settled(Branches(conv()), x)
    with inference(network, x) as fast:
        assert folded_weights(fast) == []
        for points in (x, -x):
            torch.testing.assert_close(fast(points), network(points), rtol=1e-5, atol=1e-6)


def test_a_random_network_is_used_as_it_is(conv, images):
    x = images(8)
    network = settled(Noisy(conv()), x)
    with inference(network, x) as fast:
        assert fast is network


def test_a_network_with_hooks_is_used_as_it_is(conv, images):
    network, x = conv(), images(8)
    network[2].register_forward_hook(lambda module, inputs, output: None)
    with inference(network, x) as fast:
        assert fast is network


def test_hooks_are_called_for_every_pass(conv, images):
    network, seen, x = conv(), [], images(8)
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.no_grad():
        y = network(x).argmax(1)
    seen.clear()
    radii(network, x, y, PGD(steps=3), [0.01], batch_size=8)
    assert all(isinstance(size, int) for size in seen)
    assert sum(seen) >= 8 + 8


def test_a_script_module_works(conv, images):
    x = images(8)
    network = settled(conv(), x)
    y = network(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, but users still have such files.
        script = torch.jit.trace(network, x)
    wanted = radii(network, x, y, PGD(steps=3), [0.01, 0.1])
    torch.testing.assert_close(radii(script, x, y, PGD(steps=3), [0.01, 0.1]), wanted)


def test_flat_images_and_one_dimensional_batch_norm(images):
    x = images(16).flatten(1)
    network = settled(nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), x)
    with inference(network, x) as fast:
        torch.testing.assert_close(fast(x), network(x))
