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
    Linf,
    certify,
    check_attacks,
    check_network,
    corruption_errors,
    first_order_error,
    gradient_norms,
    margins,
    profile,
    radii,
)
from evaluators.inputs import check_epsilons, check_images, check_labels, check_logits


def raises(kind, message):
    return pytest.raises(kind, match=re.escape(message))


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (np.zeros((2, 1, 4, 4)), TypeError, "x must be a tensor of images, got ndarray; use torch.from_numpy(x)"),
        ([0.5], TypeError, "x must be a tensor of images, got list"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            TypeError,
            "x must be floating point with pixels in [0, 1], got torch.uint8; divide uint8 images by 255",
        ),
        (
            torch.zeros(0, 1, 4, 4),
            ValueError,
            "x must hold at least one image, with shape (N, ...), got shape (0, 1, 4, 4)",
        ),
        (torch.zeros(4), ValueError, "x must hold at least one image, with shape (N, ...), got shape (4,)"),
        (torch.tensor([[0.5, math.nan]]), ValueError, "x must be finite, got NaN or infinite pixels"),
        (torch.tensor([[0.5, math.inf]]), ValueError, "x must be finite, got NaN or infinite pixels"),
        (
            torch.tensor([[-2.1, 2.6]]),
            ValueError,
            "x must have pixels in [0, 1], got [-2.1, 2.6]; put normalisation inside the network",
        ),
        (
            torch.tensor([[0.0, 1.5]]),
            ValueError,
            "x must have pixels in [0, 1], got [0, 1.5]; put normalisation inside the network",
        ),
        (
            torch.tensor([[0.0, 255.0]]),
            ValueError,
            "x must have pixels in [0, 1], got [0, 255]; divide images of 0 to 255 by 255",
        ),
    ],
)
def test_images_that_are_refused(x, kind, message):
    with raises(kind, message):
        check_images(x)


def test_images_that_are_taken():
    for dtype in (torch.float16, torch.float32, torch.float64):
        check_images(torch.tensor([[0.0, 1.0]], dtype=dtype))


@pytest.mark.parametrize(
    ("y", "kind", "message"),
    [
        ([0, 1], TypeError, "y must be an int64 tensor of class indices, got list; use torch.as_tensor(y)"),
        (
            torch.tensor([0, 1], dtype=torch.int32),
            TypeError,
            "y must be an int64 tensor of class indices, got torch.int32; use y.long()",
        ),
        (
            torch.tensor([0.0, 1.0]),
            TypeError,
            "y must be an int64 tensor of class indices, got torch.float32; use y.long()",
        ),
        (
            torch.eye(2, 3),
            TypeError,
            "y must be an int64 tensor of class indices, got torch.float32; use y.argmax(1) for one-hot rows",
        ),
        (torch.tensor([0, 1, 2]), ValueError, "y must have shape (2,) to go with x, got (3,)"),
        (
            torch.eye(2, 3, dtype=torch.int64),
            ValueError,
            "y must have shape (2,) to go with x, got (2, 3); pass class indices, not one-hot rows: y.argmax(1)",
        ),
        (
            torch.tensor([0, 3]),
            ValueError,
            "y must hold labels from 0 to 2, the last of the network's logits, got labels from 0 to 3",
        ),
        (torch.tensor([-1, 2]), ValueError, "got labels from -1 to 2"),
    ],
)
def test_labels_that_are_refused(y, kind, message):
    with raises(kind, message):
        check_labels(y, 2, 3)


def test_labels_need_no_number_of_classes():
    check_labels(torch.tensor([0, 99]), 2)
    with raises(ValueError, "y must hold labels from 0, got labels from -1 to 9"):
        check_labels(torch.tensor([-1, 9]), 2)


@pytest.mark.parametrize(
    ("epsilons", "message"),
    [
        ([], "epsilons must hold at least one value"),
        ([0.1, 8], "epsilon must be between 0 and 1, the size of the pixel range in this norm, got 8; "),
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


def test_epsilons_reach_the_diagonal_of_the_pixel_range():
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
    with raises(TypeError, "the network must return a tensor of logits, got tuple; wrap it to return only those"):
        check_logits((torch.zeros(2, 3), torch.zeros(2)), 2)


@pytest.mark.parametrize(("value", "found"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")])
def test_logits_must_be_finite(value, found):
    with raises(ValueError, f"the network must return finite logits, got {found}; did its training diverge?"):
        check_logits(torch.tensor([[0.0, value]]), 1)


GRID = [0.02, 0.05]
# Every public function that takes a network, images and labels.
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
    "certify": lambda network, x, y: certify(network, x, y, sigma=0.1, n0=10, n=20),
}


class Broken(nn.Module):
    """A network whose output is replaced."""

    def __init__(self, body, output):
        super().__init__()
        self.body, self.output = body, output

    def forward(self, x):
        return self.output(self.body(x))


def ok(**changed):
    return lambda network, x, y: (
        {"network": network, "x": x, "y": y}
        | {key: change(network if key == "network" else x if key == "x" else y) for key, change in changed.items()}
    )


MISTAKES = {
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
    "labels of other images": (ok(y=lambda y: y[:-1]), ValueError, "y must have shape (12,) to go with x, got (11,)"),
    "NaN logits": (
        ok(network=lambda network: Broken(network, lambda logits: logits * math.nan)),
        ValueError,
        "the network must return finite logits, got NaN; did its training diverge?",
    ),
    "two outputs": (
        ok(network=lambda network: Broken(network, lambda logits: (logits, logits))),
        TypeError,
        "the network must return a tensor of logits, got tuple; wrap it to return only those",
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
        lambda *case: profile(*case, {"fgsm": FGSM()}, include={"linf": [8]}),
        lambda *case: FGSM()(*case, 8),
        lambda *case: first_order_error(*case, Linf(), 8),
    ],
)
def test_an_epsilon_of_8_has_a_remedy_wherever_one_is_given(case, call):
    with raises(ValueError, "pixels are in [0, 1], so write 8/255 rather than 8"):
        call(*case)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_image_is_enough(case, function):
    network, x, y = case
    FUNCTIONS[function](network, x[:1], y[:1])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_training_mode_is_put_aside_and_put_back(case, function):
    network, x, y = case
    expected = FUNCTIONS[function](network, x, y)
    network.train()
    averages = network[1].running_mean.clone()
    found = FUNCTIONS[function](network, x, y)
    assert all(module.training for module in network.modules())
    assert torch.equal(network[1].running_mean, averages)
    if function in ("profile", "check_network"):
        # They say so, and nothing else differs.
        checks = found.record["checks"] if function == "profile" else [vars(check) for check in found]
        (said,) = [check["evidence"] for check in checks if check["name"] == "batch_independent"]
        assert said["handed_over_in"] == "training mode"
        before = expected.record["checks"] if function == "profile" else [vars(check) for check in expected]
        assert [check["passed"] for check in checks] == [check["passed"] for check in before]
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert repr(found) == repr(expected)
