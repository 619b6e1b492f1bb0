"""Checks of what comes out of a network: forward passes over clean images, and nothing else."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from evaluators.checks.result import CheckResult, excess
from evaluators.engine.batches import FORWARD_ONLY, Batches
from evaluators.engine.frozen import frozen
from evaluators.engine.prepared import predict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


# Relative to the largest logit: what rounding may do, on any device.
ROUNDING = 1e-4


def deterministic(network: nn.Module, x: Tensor, batches: Batches | None = None) -> CheckResult:
    """Passes if two passes over images x (N, ...) give the same logits: a randomised network hides its gradients.

    The rule: they differ by at most 1e-4 of the largest logit.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.1, stochastic gradients.
    """
    with frozen(network):
        first, again = predict(network, x, batches), predict(network, x, batches)
    difference = float((first - again).abs().max())
    return CheckResult(
        "deterministic",
        difference <= ROUNDING * float(first.abs().max()),
        {"largest_logit_difference": difference, "largest_logit": float(first.abs().max())},
    )


def logits_not_probabilities(network: nn.Module, x: Tensor, batches: Batches | None = None) -> CheckResult:
    """Passes unless the outputs look like probabilities: a softmax at the end starves cross-entropy of gradients.

    The rule: for all images x (N, ...) no output is negative and the outputs sum to 1 within 0.001.

    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", arXiv:1608.04644, section IV.
    """
    with frozen(network):
        outputs = predict(network, x, batches)
    positive = bool((outputs >= 0).all())
    off_one = float((outputs.sum(1) - 1).abs().max())
    return CheckResult(
        "logits_not_probabilities",
        not (positive and off_one < 1e-3),
        {"smallest_output": float(outputs.min()), "largest_distance_of_sum_from_1": off_one},
    )


def batch_independent(network: nn.Module, x: Tensor, batches: Batches | None = None) -> CheckResult:
    """Passes if the logits of images x (N, ...) do not depend on the other images of their batch: BatchNorm's fault.

    The rule: with black images as companions, and with themselves, they differ by at most 1e-4 of the largest logit in
    evaluation mode, in which everything here is measured; and no BatchNorm was handed over in training mode, if logits
    differ by more than that in it: what its owner measured or deploys is another network than this one. So call this before
    anything sets the mode. As many images are used as make half a batch.

    Source: Carlini et al., arXiv:1902.06705, section 5: the network attacked must be the one that is deployed.
    """
    training = network.training
    normalising = any(module.training for module in network.modules() if isinstance(module, _BatchNorm))
    x = x[: max(1, (batches or Batches(FORWARD_ONLY)).size // 2)]
    with frozen(network):
        # Both draw the same random numbers, so that only the companions differ.
        alone, companions = (_logits(network, torch.cat([x, others])) for others in (x, torch.zeros_like(x)))
        difference = float((alone[: len(x)] - companions[: len(x)]).abs().max())
        size = float(alone.abs().max())
        mode = _training_mode(network, x, alone[: len(x)])
    handed = "training mode" if training else "evaluation mode"
    if normalising and not training:
        handed += ", but for BatchNorm, in training mode"
    # What cannot be run in training mode is not used in it.
    changed = float(mode.get("difference_in_training_mode", 0.0)) > ROUNDING * size
    return CheckResult(
        "batch_independent",
        difference <= ROUNDING * size and not (normalising and changed),
        {"difference_between_batches": difference, "largest_logit": size, "handed_over_in": handed, **mode},
    )


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), _own_random_numbers(x):
        logits: Tensor = network(x.clone())  # A first layer may work in place.
    return logits


@contextmanager
def _own_random_numbers(x: Tensor) -> Iterator[None]:
    """Draws the same numbers each time, and leaves torch's as they were, on the CPU and on the device of x."""
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _training_mode(network: nn.Module, x: Tensor, logits: Tensor) -> dict[str, float | str]:
    """Returns what training mode does to the logits (N, K), and leaves running averages and random numbers as they were."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with _own_random_numbers(x), torch.no_grad():
            network.train()
            other: Tensor = functional_call(network, buffers, (x.clone(),))
    except Exception as error:  # BatchNorm refuses one image; a network of someone else's may do anything.
        return {"training_mode": f"cannot be run: {type(error).__name__}"}
    finally:
        with suppress(NotImplementedError):  # As `frozen` does.
            network.eval()
    return {
        "difference_in_training_mode": float((other - logits).abs().max().nan_to_num(posinf=3e38)),
        "decisions_that_differ_in_training_mode": float((other.argmax(1) != logits.argmax(1)).double().mean()),
    }


def normalised_inside(network: nn.Module, x: Tensor, y: Tensor, batches: Batches | None = None) -> CheckResult:
    """Passes unless the network is right about images (N, C, ...) only when something is done to them first.

    It was trained on other inputs than pixels in [0, 1], then, and what is measured is not what it was made for. The rule:
    shifting and scaling each channel to mean 0 and standard deviation 1, the range -1 to 1, or the range 0 to 255, at least
    halves the clean error, and beyond chance (McNemar's test on the same images).
    """
    mean, spread = _moments(x)
    ways = {"standardised": (x - mean) / spread, "signed": 2 * x - 1, "bytes": 255 * x}
    with frozen(network):
        wrong = (predict(network, x, batches).argmax(1) != y).cpu().numpy()
        others = {}
        for name, points in ways.items():
            logits = torch.cat([_logits(network, part) for part in points.split((batches or Batches(FORWARD_ONLY)).size)])
            # Inputs that the network was not made for may well overflow it: then they are not what it wants.
            decided = torch.where(logits.isfinite().all(1), logits.argmax(1), -1)
            others[name] = (decided != y).cpu().numpy()
    halved = {
        name: other.mean() <= wrong.mean() / 2 and excess(wrong, other).is_finding(len(ways))
        for name, other in others.items()
    }
    return CheckResult(
        "normalised_inside",
        not any(halved.values()),
        {"clean_error": float(wrong.mean()), **{f"error_{name}": float(other.mean()) for name, other in others.items()}},
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation of each channel of images (N, C, ...), to broadcast against them."""
    axes = [axis for axis in range(x.ndim) if axis != 1] if x.ndim > 2 else list(range(x.ndim))
    spread = (x - x.mean(axes, keepdim=True)).square().mean(axes, keepdim=True).sqrt()
    return x.mean(axes, keepdim=True), spread.clamp(min=1e-6)
