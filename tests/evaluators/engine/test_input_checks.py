import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import (
    FGSM,
    L2,
    PGD,
    Attack,
    Linf,
    ProfileOptions,
    Smoothing,
    certify,
    check_attacks,
    check_network,
    corruption_errors,
    first_order_error,
    margins,
    profile,
    radii,
)
from evaluators.checks import CheckResult, explain
from evaluators.engine.input_checks import check_epsilons, check_format, check_images, check_labels, check_logits
from evaluators.logits.first_order import gradient_norms


def raises(kind, message):
    """Expects an error whose text has the parts of `message`, which are separated by " ... ", in this order."""
    return pytest.raises(kind, match=r".*".join(map(re.escape, message.split(" ... "))))


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (np.zeros((2, 1, 4, 4)), TypeError, "x must ... tensor of images ... got ndarray ... torch.from_numpy(x)"),
        ([0.5], TypeError, "x must ... tensor of images ... got list"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            TypeError,
            "x must ... floating point ... got torch.uint8 ... by 255",
        ),
        (
            torch.zeros(0, 1, 4, 4),
            ValueError,
            "x must ... at least one ... got shape (0, 1, 4, 4)",
        ),
        (torch.zeros(4), ValueError, "x must ... at least one ... got shape (4,)"),
        (torch.tensor([[0.5, math.nan]]), ValueError, "x must ... finite ... got NaN or infinite pixels"),
        (torch.tensor([[0.5, math.inf]]), ValueError, "x must ... finite ... got NaN or infinite pixels"),
        (
            torch.tensor([[-2.1, 2.6]]),
            ValueError,
            "x must ... [0, 1] ... got [-2.1, 2.6] ... normalisation",
        ),
        (
            torch.tensor([[0.0, 1.5]]),
            ValueError,
            "x must ... [0, 1] ... got [0, 1.5] ... normalisation",
        ),
        (
            torch.tensor([[0.0, 255.0]]),
            ValueError,
            "x must ... [0, 1] ... got [0, 255] ... by 255",
        ),
    ],
)
def test_images_that_are_refused(x, kind, message):
    with raises(kind, message):
        check_images(x)


def test_images_that_are_accepted():
    for dtype in (torch.float16, torch.float32, torch.float64):
        check_images(torch.tensor([[0.0, 1.0]], dtype=dtype))


@pytest.mark.parametrize(
    ("y", "kind", "message"),
    [
        ([0, 1], TypeError, "y must ... int64 ... got list ... torch.as_tensor(y)"),
        (
            torch.tensor([0, 1], dtype=torch.int32),
            TypeError,
            "y must ... int64 ... got torch.int32 ... y.long()",
        ),
        (
            torch.tensor([0.0, 1.0]),
            TypeError,
            "y must ... int64 ... got torch.float32 ... y.long()",
        ),
        (
            torch.eye(2, 3),
            TypeError,
            "y must ... int64 ... got torch.float32 ... y.argmax(1)",
        ),
        (torch.tensor([0, 1, 2]), ValueError, "y must ... (2,) ... got (3,)"),
        (
            torch.eye(2, 3, dtype=torch.int64),
            ValueError,
            "y must ... (2,) ... got (2, 3) ... y.argmax(1)",
        ),
        (
            torch.tensor([0, 3]),
            ValueError,
            "y must ... got labels from 0 to 3",
        ),
        (torch.tensor([-1, 2]), ValueError, "got labels from -1 to 2"),
    ],
)
def test_labels_that_are_refused(y, kind, message):
    with raises(kind, message):
        check_labels(y, 2, 3)


def test_a_network_of_another_dtype_is_converted_where_the_images_cannot_be():
    with raises(
        ValueError, "parameters are torch.float64, but the images x are torch.float32; use network.to(torch.float32)"
    ):
        check_format(nn.Linear(2, 2).double(), torch.zeros(1, 2), convertible=False)


def test_labels_need_no_number_of_classes():
    check_labels(torch.tensor([0, 99]), 2)
    with raises(ValueError, "y must ... got labels from -1 to 9"):
        check_labels(torch.tensor([-1, 9]), 2)


@pytest.mark.parametrize(
    ("epsilons", "message"),
    [
        ([], "epsilons must hold at least one value"),
        ([0.1, 8], "epsilon must ... between 0 and 1 ... got 8"),
        ([8], "pixels are in [0, 1], so write 8/255 rather than 8"),
        ([-0.1], "got -0.1"),
        ([math.nan], "got nan"),
        ([math.inf], "got inf"),
        ([0.1, 0.1], "epsilons must be strictly increasing, got [0.1, 0.1]"),
        ([0.2, 0.1], "epsilons must be strictly increasing, got [0.2, 0.1]"),
    ],
)
def test_epsilons_that_are_refused(epsilons, message):
    with raises(ValueError, message):
        check_epsilons(epsilons, 1.0)


def test_epsilons_up_to_the_size_of_the_pixel_range_are_accepted():
    check_epsilons([0.0, 8 / 255, 1.0], 1.0)
    check_epsilons([0.5, math.sqrt(3072)], math.sqrt(3072))


@pytest.mark.parametrize("shape", [(2,), (2, 3, 1), (3, 3), (2, 1)])
def test_logits_of_another_shape_are_refused(shape):
    with raises(ValueError, f"the network must return logits of shape (2, K) with K >= 2, got {shape}"):
        check_logits(torch.zeros(shape), 2)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_single_logit_has_a_remedy(shape):
    with raises(ValueError, "; for two classes return two logits, such as torch.cat([-z, z], 1)"):
        check_logits(torch.zeros(shape), 2)


def test_several_outputs_are_no_logits():
    with raises(TypeError, "the network must ... tensor of logits ... got tuple"):
        check_logits((torch.zeros(2, 3), torch.zeros(2)), 2)


@pytest.mark.parametrize(("value", "name"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")])
def test_logits_must_be_finite(value, name):
    with raises(ValueError, f"the network must return finite logits, got {name}; did its training diverge?"):
        check_logits(torch.tensor([[0.0, value]]), 1)


GRID = [0.02, 0.05]
# Public functions that take a network, images and labels.
FUNCTIONS = {
    "radii": lambda network, x, y: radii(network, x, y, FGSM(), GRID),
    "profile": lambda network, x, y: profile(network, x, y, {"pgd": PGD(steps=2)}, epsilons={"linf": GRID}),
    "margins": lambda network, x, y: margins(network, x, y, [Linf()]),
    "attack": lambda network, x, y: PGD(steps=2)(network, x, y, 0.05),
    "check_network": check_network,
    "check_attacks": lambda network, x, y: check_attacks(
        network, x, y, {"fgsm": FGSM()}, {"fgsm": np.full(len(x), np.inf)}, {"linf": GRID}
    ),
    "first_order_error": lambda network, x, y: first_order_error(network, x, y, Linf(), 0.05),
    "gradient_norms": lambda network, x, y: gradient_norms(network, x, y, Linf()),
    "corruption_errors": corruption_errors,
    "certify": lambda network, x, y: certify(network, x, y, Smoothing(sigma=0.1, n0=10, n=20)),
}


class Broken(nn.Module):
    """A network followed by a function that changes its output."""

    def __init__(self, body, output):
        super().__init__()
        self.body, self.output = body, output

    def forward(self, x):
        return self.output(self.body(x))


def ok(**changed):
    """Returns a function from (network, x, y) to a dict of arguments. `changed` has a function for each changed argument."""
    return lambda network, x, y: (
        {"network": network, "x": x, "y": y}
        | {key: change(network if key == "network" else x if key == "x" else y) for key, change in changed.items()}
    )


MISTAKES = {
    "a network in double precision": (
        ok(network=lambda network: network.double()),
        ValueError,
        "parameters are torch.float64, but the images x are torch.float32; use x.to(torch.float64), or network.to(",
    ),
    "a network in half precision": (
        ok(network=lambda network: network.half()),
        ValueError,
        "parameters are torch.float16, but the images x are torch.float32; use x.to(torch.float16)",
    ),
    "a lazy layer": (
        ok(network=lambda network: nn.Sequential(network, nn.LazyLinear(4))),
        ValueError,
        "the lazy layer of 1.weight is not initialised; call the network on a batch of images first",
    ),
    "a lazy buffer": (
        ok(network=lambda network: nn.Sequential(network, nn.LazyBatchNorm1d(affine=False))),
        ValueError,
        "the lazy layer of 1.running_mean is not initialised",
    ),
    "images in double precision": (
        ok(x=lambda x: x.double()),
        ValueError,
        "parameters are torch.float32, but the images x are torch.float64; use x.to(torch.float32), or network.to(",
    ),
    "normalised images": (
        ok(x=lambda x: (x - 0.5) / 0.25),
        ValueError,
        "; put normalisation inside the network",
    ),
    "images of 0 to 255": (ok(x=lambda x: 255 * x), ValueError, "; divide images of 0 to 255 by 255"),
    "bytes": (ok(x=lambda x: (255 * x).byte()), TypeError, "got torch.uint8; divide uint8 images by 255"),
    "an array": (ok(x=lambda x: x.numpy()), TypeError, "got ndarray; use torch.from_numpy(x)"),
    "no images": (ok(x=lambda x: x[:0], y=lambda y: y[:0]), ValueError, "x must hold at least one image"),
    "labels from 1": (ok(y=lambda y: torch.full_like(y, 4)), ValueError, "y must hold labels from 0 to 3"),
    "a label of -1": (ok(y=lambda y: y - 4), ValueError, "y must hold labels from 0"),
    "one-hot labels": (ok(y=lambda y: nn.functional.one_hot(y, 4)), ValueError, "pass class indices, not one-hot rows"),
    "one-hot floats": (ok(y=lambda y: nn.functional.one_hot(y, 4).float()), TypeError, "use y.argmax(1) for one-hot rows"),
    "labels in a list": (ok(y=lambda y: y.tolist()), TypeError, "got list; use torch.as_tensor(y)"),
    "labels of other images": (ok(y=lambda y: y[:-1]), ValueError, "y must ... (12,) ... got (11,)"),
    "NaN logits": (
        ok(network=lambda network: Broken(network, lambda logits: logits * math.nan)),
        ValueError,
        "the network must ... finite ... got NaN ... training",
    ),
    "two outputs": (
        ok(network=lambda network: Broken(network, lambda logits: (logits, logits))),
        TypeError,
        "the network must ... tensor of logits ... got tuple",
    ),
    "one logit": (
        ok(network=lambda network: Broken(network, lambda logits: logits[:, :1])),
        ValueError,
        "; for two classes return two logits, such as torch.cat([-z, z], 1)",
    ),
}


@pytest.fixture
def case(conv, images):
    return conv(), images(12), torch.arange(12) % 4


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_users_mistakes_have_a_remedy_in_every_public_function(case, function, mistake):
    change, kind, message = MISTAKES[mistake]
    with raises(kind, message):
        FUNCTIONS[function](**change(*case))


@pytest.mark.parametrize(
    "call",
    [
        lambda *case: radii(*case, FGSM(), [8]),
        lambda *case: radii(*case, FGSM(norm=L2()), [80]),
        lambda *case: profile(*case, {"fgsm": FGSM()}, epsilons={"linf": [8]}),
        lambda *case: profile(*case, {"fgsm": FGSM()}, options=ProfileOptions(include={"linf": [8]})),
        lambda *case: FGSM()(*case, 8),
        lambda *case: first_order_error(*case, Linf(), 8),
    ],
)
def test_an_epsilon_of_8_has_a_remedy_in_every_function(case, call):
    with raises(ValueError, "pixels are in [0, 1], so write 8/255 rather than 8"):
        call(*case)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_network_that_converts_its_images_is_accepted(case, function):
    network, x, y = case
    converts = Broken(network.double(), lambda logits: logits)
    converts.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    FUNCTIONS[function](converts, x, y)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_image_is_enough(case, function):
    network, x, y = case
    FUNCTIONS[function](network, x[:1], y[:1])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_networks_are_measured_in_evaluation_mode_and_stay_in_training_mode(case, function):
    network, x, y = case
    expected = FUNCTIONS[function](network, x, y)
    network.train()
    averages = network[1].running_mean.clone()
    result = FUNCTIONS[function](network, x, y)
    assert all(module.training for module in network.modules())
    assert torch.equal(network[1].running_mean, averages)
    if function in ("profile", "check_network"):
        # Only one check has another outcome in training mode. The explanation of its failure names the remedy.
        checks = result.record["checks"] if function == "profile" else [vars(check) for check in result]
        (evidence,) = [check["evidence"] for check in checks if check["name"] == "batch_independent"]
        assert evidence["handed_over_in"] == "training mode"
        before = expected.record["checks"] if function == "profile" else [vars(check) for check in expected]
        (failed,) = [c for c, b in zip(checks, before, strict=True) if c["passed"] != b["passed"]]
        assert failed["name"] == "batch_independent"
        assert "Call network.eval()" in explain(CheckResult(**failed))
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(result, expected)
    else:
        assert repr(result) == repr(expected)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda n, x, y: radii(lambda z: n(z), x, y, PGD(), [0.1]), TypeError, "network must be an nn.Module, got function"),
        (lambda n, x, y: radii(type(n), x, y, PGD(), [0.1]), TypeError, "a class; create an instance"),
        (lambda n, x, y: radii(n, x, y, PGD, [0.1]), TypeError, "got the class PGD; write PGD()"),
        (lambda n, x, y: radii(n, x, y, "pgd", [0.1]), TypeError, "an instance of evaluators.Attack, got str"),
        (lambda n, x, y: radii(n, x, y, PGD(norm="l2"), [0.1]), TypeError, "norm must be an instance of evaluators.Norm"),
        (lambda n, x, y: PGD(loss="margin")(n, x, y, 0.1), TypeError, "loss must be a function"),
        (lambda n, x, y: radii(n, x, y, PGD(), 0.1), TypeError, "epsilons must ... got one number"),
        (lambda n, x, y: radii(n, x, y, PGD(), [0.1], batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda n, x, y: profile(n, x, y, [PGD()]), TypeError, "attacks must ... got list"),
        (lambda n, x, y: profile(n, x, y, {"pgd": PGD}), TypeError, "got the class PGD; write PGD()"),
        (lambda n, x, y: profile(n, x, y, {"pgd": PGD()}, epsilons=[0.1]), TypeError, "epsilons must be a mapping such as"),
        (
            lambda n, x, y: profile(n, x, y, {"pgd": PGD()}, epsilons={"Linf": [0.1]}),
            ValueError,
            "epsilons names the norm 'Linf', but the attacks' norms are linf",
        ),
        (
            lambda n, x, y: profile(n, x, y, {"pgd": PGD()}, options=ProfileOptions(include={"l2": [0.1]})),
            ValueError,
            "include names the norm 'l2', but the attacks' norms are linf",
        ),
        (
            lambda n, x, y: profile(n, x, y, {"pgd": PGD()}, epsilons={"linf": [0.0]}),
            ValueError,
            "epsilons of linf must hold at least one above 0",
        ),
        (
            lambda n, x, y: profile(n, x, y, {"pgd": PGD()}, options=ProfileOptions(smoothing=Smoothing(sigma=-1.0))),
            ValueError,
            "sigma must be positive",
        ),
    ],
)
def test_misuse_is_an_error_before_any_work(case, call, kind, message):
    network, x, y = case
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    with raises(kind, message):
        call(network, x, y)
    assert len(passes) <= 1


def test_inference_mode_is_refused_where_attacks_would_find_nothing(case):
    network, x, y = case
    with torch.inference_mode():
        made_there = x.clone()
        for call in (lambda: radii(network, x, y, PGD(), [0.1]), lambda: PGD()(network, x, y, 0.1)):
            with raises(ValueError, "attacks need gradients, which torch.inference_mode() disables"):
                call()
    with raises(ValueError, "x was created in torch.inference_mode()"):
        radii(network, made_there, y, PGD(), [0.1])


class Rooted(nn.Module):
    """Adds the L2 length of the pixels of a corner to the logits. Its gradient is NaN where the corner is black."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x) + 1e-3 * x[:, :, :2, :2].flatten(1).square().sum(1).sqrt()[:, None]


@pytest.mark.filterwarnings("ignore:the network's gradient has NaN")
def test_gradients_that_are_not_finite_are_no_robustness(case):
    network, x, _ = case
    x = x.clone()
    x[:, :, :2, :2] = 0
    y = network.eval()(x).argmax(1)
    rooted = Rooted(network)
    for attack in (FGSM(), PGD(), PGD(norm=L2()), FGSM(norm=L2())):
        assert attack(rooted, x, y, 0.3).isfinite().all()
    (alive,) = [check for check in check_network(rooted, x, y) if check.name == "gradients_alive"]
    assert not alive.passed
    assert alive.evidence["share_without_gradient"] == 1
    assert "zero or not finite" in explain(alive)
    network_profile = profile(rooted, x, y, {"pgd": PGD()})
    assert "gradients_alive" in network_profile.failed_checks()


def test_gradients_that_are_not_finite_give_a_warning(case):
    network, x, _ = case
    x = x.clone()
    x[:3, :, :2, :2] = 0
    y = network.eval()(x).argmax(1)
    with pytest.warns(UserWarning, match=f"at 3 of {len(x)} points"):
        FGSM()(Rooted(network), x, y, 0.1)


class InPlace(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.body(x.mul_(0.9))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_network_that_works_in_place_and_counts_changes_nothing(case, function):
    network, x, y = case
    before, counting = x.clone(), InPlace(network)
    FUNCTIONS[function](counting, x, y)
    assert torch.equal(x, before)
    assert counting.calls == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_frozen_script_module_is_measured(case):
    network, x, y = case
    frozen = torch.jit.freeze(torch.jit.script(network.eval()))
    assert torch.equal(radii(frozen, x, y, FGSM(), [0.1, 0.2]), radii(network, x, y, FGSM(), [0.1, 0.2]))


def test_no_pass_of_a_profile_is_larger_than_batch_size(case):
    network, x, y = case
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    profile(network, x, y, {"pgd": PGD()}, options=ProfileOptions(batch_size=4))
    assert max(seen) == 4


def test_a_radius_does_not_depend_on_the_other_epsilons_of_the_grid(case):
    network, x, y = case
    alone, image_radii = radii(network, x, y, PGD(), [0.2]), radii(network, x, y, PGD(), [0.01, 0.1, 0.2])
    later = image_radii > 0.1
    assert later.any()
    assert torch.equal(alone[later], image_radii[later])


class Plain(Attack):
    """A custom attack that is not a dataclass."""

    def __init__(self):
        self.norm, self.pattern = Linf(), torch.ones(1, 8, 8)

    def perturb(self, target, x, epsilon, noise):
        return epsilon * self.pattern.expand_as(x)


def test_a_custom_attack_need_not_be_a_dataclass(case):
    network, x, y = case
    network_profile = profile(network, x, y, {"own": Plain()})
    assert network_profile.record["attacks"]["own"]["config"]["norm"] == "linf"
    assert network_profile.record["attacks"]["own"]["config"]["name"].endswith(":Plain")
