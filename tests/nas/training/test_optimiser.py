"""Optimisers, and schedules of learning rate and momentum."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from nas.training.optimiser import open_optimiser, peak_rate, rates, set_rates


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 1001])
@pytest.mark.parametrize("peak", [0.2, 3.0])
def test_one_cycle_is_that_of_torch(steps, peak):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak, momentum=0.9)
    total = steps + 1
    schedule, expected = OneCycleLR(optimiser, peak, total_steps=total, pct_start=max(0.25, 1.5 / total)), []
    for _ in range(steps):
        group = optimiser.param_groups[0]
        expected.append((group["lr"], group["momentum"]))
        optimiser.step()
        schedule.step()
    assert rates("one_cycle", peak, steps) == expected


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50, 1000])
def test_the_rate_rises_to_the_peak_and_falls(schedule, steps):
    values = [rate for rate, momentum in rates(schedule, 0.4, steps) if momentum == 0.9]
    assert len(values) == steps
    assert all(0 < value <= 0.4 for value in values)
    top = values.index(max(values))
    assert top <= max(1, 0.05 * steps)
    assert values[:top] == sorted(values[:top])
    assert values[top:] == sorted(values[top:], reverse=True)
    if steps >= 50:
        assert max(values) == 0.4
        assert values[-1] < 0.02
        middle = values[round(0.05 * steps) + round(0.95 * steps * 0.25)] / 0.4
        assert middle == pytest.approx({"linear": 0.75, "cosine": 0.854}[schedule], abs=0.02)


@pytest.mark.parametrize(("name", "peak"), [("sgd", 0.2), ("adamw", 0.02)])
def test_rule_for_the_peak_grows_with_the_square_root_of_the_batch(name, peak):
    assert [peak_rate(name, None, batch) for batch in (16, 64, 256)] == pytest.approx([peak / 2, peak, 2 * peak])
    assert peak_rate(name, 0.7, 16) == 0.7


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rates_of_a_step_are_those_that_were_set(name):
    """A step equals that of the same optimiser of torch, made with these rates."""

    def made(kind, **settings):
        parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
        return parameter, kind([parameter], weight_decay=0.1, **settings)

    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = open_optimiser(name, [parameter], 0.1)
    set_rates(optimiser, 0.03, 0.8)
    reference, expected = (
        made(torch.optim.SGD, lr=0.03, momentum=0.8, nesterov=True)
        if name == "sgd"
        else made(torch.optim.AdamW, lr=0.03, betas=(0.8, 0.999))
    )
    for one, steps in ((parameter, optimiser), (reference, expected)):
        for gradient in ([0.3, 0.7], [-0.1, 0.2]):
            one.grad = torch.tensor(gradient)
            steps.step()
    assert torch.allclose(parameter, reference, atol=1e-7)
    assert not torch.equal(parameter, torch.tensor([1.0, -2.0]))
