import math
import re

import numpy as np
import pytest
import torch

from evaluators.inputs import check_epsilons, check_images, check_labels, check_logits


def raises(kind, message):
    return pytest.raises(kind, match=re.escape(message))


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (np.zeros((2, 1, 4, 4)), TypeError, "x must be a tensor of images, got ndarray"),
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
        (torch.tensor([[0.0, 1.5]]), ValueError, "x must have pixels in [0, 1], got [0, 1.5]"),
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
        ([0, 1], TypeError, "y must be an int64 tensor of class indices, got list"),
        (
            torch.tensor([0, 1], dtype=torch.int32),
            TypeError,
            "y must be an int64 tensor of class indices, got torch.int32",
        ),
        (torch.tensor([0.0, 1.0]), TypeError, "y must be an int64 tensor of class indices, got torch.float32"),
        (torch.tensor([0, 1, 2]), ValueError, "y must have shape (2,) to go with x, got (3,)"),
        (
            torch.eye(2, 3, dtype=torch.int64),
            ValueError,
            "y must have shape (2,) to go with x, got (2, 3); pass class indices, not one-hot rows",
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_must_be_finite(value):
    with raises(ValueError, "the network must return finite logits, got"):
        check_logits(torch.tensor([[0.0, value]]), 1)
