"""Losses of attacks: the difference of logits ratio by hand, its invariances, and a comparison with autoattack."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluators.attacks import LOSSES, cross_entropy, dlr, margin, targeted_dlr, targeted_margin


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(200, 7, generator=generator, dtype=torch.float64)
    y = torch.randint(7, (200,), generator=generator)
    return logits, y, (y + torch.randint(1, 7, (200,), generator=generator)) % 7


def test_by_hand():
    logits = torch.tensor([[4.0, 1.0, 0.0, -2.0]]).expand(4, 4)
    y = torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(dlr(logits, y), torch.tensor([-3 / 4, 3 / 4, 4 / 4, 6 / 4]))
    towards = torch.tensor([2, 0, 3, 2])
    torch.testing.assert_close(targeted_margin(logits, y, towards), torch.tensor([-4.0, 3.0, -2.0, 2.0]))
    torch.testing.assert_close(targeted_dlr(logits, y, towards), torch.tensor([-4 / 5, 3 / 5, -2 / 5, 2 / 5]))


def test_by_name():
    assert {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}.items() <= LOSSES.items()


@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-100, 100))
def test_a_ratio_does_not_change_with_scale_and_shift(scale, shift):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (50,), generator=generator)
    for loss, classes in ((dlr, ()), (targeted_dlr, ((y + 1) % 5,))):
        expected = loss(logits, y, *classes)
        torch.testing.assert_close(loss(scale * (logits + shift), y, *classes), expected, rtol=1e-9, atol=1e-9)


def test_signs_say_what_is_misclassified(case):
    logits, y, towards = case
    wrong = logits.argmax(1) != y
    assert ((dlr(logits, y) > 0) == wrong).all()
    beaten = logits.gather(1, towards[:, None]) > logits.gather(1, y[:, None])
    assert ((targeted_dlr(logits, y, towards) > 0) == beaten.squeeze(1)).all()
    assert 0 < wrong.sum() < 200
    assert (dlr(logits, y)[~wrong] >= -1).all()


def test_gradients_are_those_of_finite_differences(case):
    logits, y, towards = (t[:20] for t in case)
    logits = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dlr(z, y), logits)
    assert torch.autograd.gradcheck(lambda z: targeted_dlr(z, y, towards), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_ties_make_neither_nan_nor_infinity(dtype, scale):
    rows = [
        [0.0] * 5,
        [1.0, 1.0, 1.0, 1.0, 0.0],
        [1.0, 1.0, 1.0, 0.0, 0.0],
        [1.0, 1.0, 0.0, 0.0, 0.0],
        [9.0, 1.0, 1.0, 1.0, 1.0],
    ]
    for y in range(5):
        logits = (scale * torch.tensor(rows, dtype=dtype)).requires_grad_()
        labels = torch.full((5,), y)
        for values in (dlr(logits, labels), targeted_dlr(logits, labels, (labels + 1) % 5)):
            assert values.isfinite().all()
            (gradient,) = torch.autograd.grad(values.sum(), logits)
            assert gradient.isfinite().all()
    # If the label is one of the tied classes, the ratio is zero.
    assert dlr(torch.ones(1, 5), torch.tensor([2])).item() == 0


def test_too_few_logits_are_refused_with_the_remedy():
    y = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=re.escape("dlr needs a network of at least 3 logits, got 2; use margin")):
        dlr(torch.zeros(3, 2), y)
    message = "targeted_dlr needs a network of at least 4 logits, got 3; use targeted_margin"
    with pytest.raises(ValueError, match=re.escape(message)):
        targeted_dlr(torch.zeros(3, 3), y, y + 1)
    assert dlr(torch.zeros(3, 3), y).shape == targeted_dlr(torch.zeros(3, 4), y, y + 1).shape == (3,)


def test_the_ratios_are_autoattacks(case):
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    logits, y, towards = case
    oracle = autopgd.APGDAttack_targeted(None, eps=0.1)
    oracle.y_target = towards
    torch.testing.assert_close(dlr(logits, y), oracle.dlr_loss(logits, y))
    torch.testing.assert_close(targeted_dlr(logits, y, towards), oracle.dlr_loss_targeted(logits, y))
