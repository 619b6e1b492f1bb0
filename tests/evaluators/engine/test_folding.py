"""Folding of batch norm: the logits and gradients of the network, for every kind of layer and after every change."""

import copy

import pytest
import torch
from torch import nn

from evaluators.engine.batches import activation_bytes
from evaluators.engine.folding import Folding, agree, folded_weights


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


def assert_same(network, folding, x):
    """The folded network has the logits and the gradients of the network."""
    logits, gradient = network(x), input_gradient(network, x)
    with folding.applied():
        torch.testing.assert_close(network(x), logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(input_gradient(network, x), gradient, rtol=1e-4, atol=1e-4)
    assert torch.equal(network(x), logits)


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
    folding = Folding(network, x)
    assert len(folding) == 1
    assert_same(network, folding, x)
    with folding.applied(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "batch_norm", None)  # The folded pass does not use it.
        network(x)


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
    folding = Folding(network, x)
    assert len(folding) == 0
    assert_same(network, folding, x)


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


@pytest.fixture
def network():
    return settled(conv_net(), None)


@pytest.fixture
def x():
    return images(2, 6, 6)


@pytest.mark.parametrize("assign", [False, True], ids=["in place", "replaced"])
def test_follows_the_weights(assign, network, x):
    folding = Folding(network, x)
    with folding.applied():
        before = network(x)
    changed = {name: value * 1.5 for name, value in network.state_dict().items()}
    network.load_state_dict(changed, assign=assign)
    assert_same(network, folding, x)
    assert not torch.allclose(network(x), before)


def test_follows_the_format_of_the_weights(network, x):
    folding = Folding(network, x)
    assert_same(network.double(), folding, x.double())


class Counting(nn.Module):
    """Scales its input by a Python value, and by a buffer that each pass replaces."""

    def __init__(self):
        super().__init__()
        self.scale = 1.0
        self.register_buffer("count", torch.zeros(()))
        self.last = None

    def forward(self, x):
        self.count, self.last = self.count + 1, x
        return x * self.scale


def test_runs_the_code_of_the_network(network, x):
    network.insert(3, counting := Counting())
    folding = Folding(network, x)
    assert len(folding) == 2
    assert counting.last is None or isinstance(counting.last, torch.Tensor)
    counting.scale, counting.count = 3.0, torch.tensor(7.0)
    assert_same(network, folding, x)
    before = counting.count
    with folding.applied():
        network(x)
    assert counting.count == before + 1


def test_weights_of_folded_layers_have_no_gradients(network, x):
    with Folding(network, x).applied():
        network(x).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is not None] == ["6.weight", "6.bias"]


def test_the_network_is_left_as_it_was(network, x):
    names, strides = list(network.state_dict()), network[0].weight.stride()
    folding = Folding(network, x)
    with pytest.raises(RuntimeError, match="size"), folding.applied():
        network(x[:, :1])
    assert list(network.state_dict()) == names
    assert network[0].weight.stride() == strides
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any("forward" in module.__dict__ for module in network.modules())
    assert folded_weights(network) == []


def test_a_copy_of_a_folded_network_follows_its_own_weights(network, x):
    with Folding(network, x).applied():
        copied = copy.deepcopy(network)
    with torch.no_grad():
        copied[0].weight.mul_(2)
        network.load_state_dict(copied.state_dict())
    torch.testing.assert_close(copied(x), network(x))


def test_training_mode_is_not_folded(network, x):
    expected = copy.deepcopy(network).train()(x)
    with Folding(network, x).applied():
        torch.testing.assert_close(network.train()(x), expected)


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_pre_hook"])
def test_layers_with_hooks_are_not_folded(hook, network, x):
    folding = Folding(network, x)
    getattr(network[1], hook)(lambda *arguments: None)
    folding.check(x)
    assert len(folding) == len(Folding(network, x)) == 1
    assert_same(network, folding, x)


def test_layers_that_change_inside_the_context_run_as_they_are(network, x):
    seen = []
    with Folding(network, x).applied():
        with torch.no_grad():
            network[0].weight.mul_(2)
        network[4].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        logits = network(x)
    torch.testing.assert_close(logits, network(x))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_other_weights_for_one_call_count(network, x):
    doubled = {"0.weight": 2 * network[0].weight.detach()}
    expected = torch.func.functional_call(network, doubled, x)
    with Folding(network, x).applied():
        torch.testing.assert_close(torch.func.functional_call(network, doubled, x), expected)


def test_a_batch_norm_called_alone_works(network, x):
    features = torch.rand(4, 4, 4, 4)
    expected = network[1](features)
    with Folding(network, x).applied():
        network(x)
        assert torch.equal(network[1](features), expected)


def test_a_forward_of_a_layers_own_is_kept(network, x):
    def forward(x):
        return type(network[0]).forward(network[0], x) * 3

    network[0].forward = forward
    folding = Folding(network, x)
    assert len(folding) == 1
    assert_same(network, folding, x)
    assert network[0].forward is forward


def test_nested_contexts(network, x):
    folding = Folding(network, x)
    with folding.applied():
        with folding.applied():
            network(x)
        assert len(folded_weights(network)) == 2
    assert folded_weights(network) == []


def test_agree_compares_a_single_image_too_and_leaves_the_images(network, x):
    def other(points):
        return network(points) + (len(points) == 1)

    def in_place(points):
        return network(points.mul_(1))

    before = x.clone()
    assert not agree(network, other, x)
    assert agree(in_place, in_place, x)
    assert not agree(network, lambda points: network(points.mul_(2)), x)
    assert torch.equal(x, before)


def test_nothing_is_folded_if_the_logits_differ(x):
    class Inspecting(nn.Module):
        """A network whose logits depend on the weights of a layer that would be folded."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
            self.uses_output = False

        def forward(self, x):
            features = self.conv(x)
            return self.norm(features).flatten(1) + (features.flatten(1) if self.uses_output else 0)

    network = settled(Inspecting(), x)
    folding = Folding(network, x)
    assert len(folding) == 1
    network.uses_output = True
    folding.check(x)
    assert len(folding) == 0
    network.uses_output = False
    folding.check(x)
    assert len(folding) == 1


def test_folded_weights_are_no_activations(network, x):
    plain = activation_bytes(network, x[:1])[0]
    with Folding(network, x).applied():
        assert len(folded_weights(network)) == 2
        assert activation_bytes(network, x[:1])[0] <= plain


def test_what_cannot_be_traced_is_not_folded(x):
    network = Called(
        lambda m, x: m["norm"](m["conv"](x if x.mean() > 0 else -x)), conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3)
    )
    assert len(Folding(network.eval(), x)) == 0
