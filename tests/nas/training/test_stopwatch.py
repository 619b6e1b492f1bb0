"""Times of the stages of an epoch."""

import time

import pytest
import torch

from nas.training import stopwatch


def test_each_lap_counts_for_its_stage(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[-1])
    watch = stopwatch.start(torch.device("cpu"))
    for stage, seconds in (("data", 1.0), ("attack", 2.0), ("gradient", 4.0), ("attack", 8.0)):
        clock.append(clock[-1] + seconds)
        watch.lap(stage)
    assert watch.seconds() == {"data": 1.0, "attack": 10.0, "gradient": 4.0, "update": 0.0, "judging": 0.0}


def test_an_unknown_stage_is_an_error():
    with pytest.raises(KeyError):
        stopwatch.start(torch.device("cpu")).lap("lunch")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_work_on_a_gpu_is_timed_where_it_runs():
    device = torch.device("cuda")
    x = torch.rand(4096, 4096, device=device)
    torch.cuda.synchronize()
    watch = stopwatch.start(device)
    for _ in range(20):
        x = (x @ x).clamp(0, 1)
    watch.lap("gradient")
    assert watch.seconds()["gradient"] > 0.001
