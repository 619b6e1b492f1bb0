"""Checks of the outputs of a network, by forward passes over clean images only."""

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

    from evaluators.engine.prepared import PreparedNetwork


# Assumed largest change by rounding on any device, relative to the largest logit.
ROUNDING = 1e-4


def deterministic(network: nn.Module, x: Tensor, batches: Batches | None = None) -> CheckResult:
    """Checks that two passes over the same images give the same logits. A randomised network hides its gradients.

    The check passes if the logits differ by at most 1e-4 of the largest logit.

    Args:
        network: Maps images to logits (N, K); unchanged by the check.
        x: Clean images (N, ...) with pixels in [0, 1].
        batches: Batch sizes; passes of 256 images if None.

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
    """Checks that the outputs are logits, not probabilities. After a softmax the gradient of cross-entropy vanishes.

    The check fails if no output is negative and the outputs of every image sum to 1 within 0.001.

    Args:
        network: Maps images to logits (N, K); unchanged by the check.
        x: Clean images (N, ...) with pixels in [0, 1].
        batches: Batch sizes; passes of 256 images if None.

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
    """Checks that the logits of an image do not depend on the other images of its batch.

    With BatchNorm in training mode, logits depend on the batch. In evaluation mode, the images are run in a batch with
    copies of themselves and in a batch with black images. The check fails if the logits differ by more than 1e-4 of the
    largest logit. It also fails if a BatchNorm module is passed in training mode, and the logits in training mode differ by
    more than this from those in evaluation mode. The deployed network may then not be the measured one. Call this function
    before other code sets the mode. It uses at most half a batch of images.

    Args:
        network: Maps images to logits (N, K), in the mode in which it is used; unchanged by the check.
        x: Clean images (N, ...) with pixels in [0, 1].
        batches: Batch sizes; passes of 256 images if None.

    Source: Carlini et al., arXiv:1902.06705, section 5: the network attacked must be the one that is deployed.
    """
    training = network.training
    normalising = any(module.training for module in network.modules() if isinstance(module, _BatchNorm))
    x = x[: max(1, (batches or Batches(FORWARD_ONLY)).size // 2)]
    with frozen(network):
        # Both passes draw the same random numbers, so that only the other half of the batch differs.
        alone, companions = (_logits(network, torch.cat([x, others])) for others in (x, torch.zeros_like(x)))
        difference = float((alone[: len(x)] - companions[: len(x)]).abs().max())
        size = float(alone.abs().max())
        mode = _training_mode(network, x, alone[: len(x)])
    handed = "training mode" if training else "evaluation mode"
    if normalising and not training:
        handed += ", with BatchNorm in training mode"
    # A network that fails in training mode is not used in training mode.
    changed = float(mode.get("difference_in_training_mode", 0.0)) > ROUNDING * size
    return CheckResult(
        "batch_independent",
        difference <= ROUNDING * size and not (normalising and changed),
        {"difference_between_batches": difference, "largest_logit": size, "handed_over_in": handed, **mode},
    )


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), _own_random_numbers(x):
        logits: Tensor = network(x.clone())  # The first layer may change its input in place.
    return logits


@contextmanager
def _own_random_numbers(x: Tensor) -> Iterator[None]:
    """Seeds torch's generators of the CPU and the device of x with 0, and restores their state at the end."""
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _training_mode(network: nn.Module, x: Tensor, logits: Tensor) -> dict[str, float | str]:
    """Returns how training mode changes the logits (N, K). Running averages and random states stay unchanged."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with _own_random_numbers(x), torch.no_grad():
            network.train()
            other: Tensor = functional_call(network, buffers, (x.clone(),))
    except Exception as error:  # BatchNorm rejects a single image; a custom network may raise any error.
        return {"training_mode": f"cannot be run: {type(error).__name__}"}
    finally:
        with suppress(NotImplementedError):  # An exported network may have no eval().
            network.eval()
    return {
        "difference_in_training_mode": float((other - logits).abs().max().nan_to_num(posinf=3e38)),
        "decisions_that_differ_in_training_mode": float((other.argmax(1) != logits.argmax(1)).double().mean()),
    }


def tells_classes_apart(prepared: PreparedNetwork) -> CheckResult:
    """Checks that the network predicts several classes, and beats a constant prediction of the most frequent label.

    A network that predicts one class for every image cannot be fooled on the images of this class. The check passes if all
    images have one label.

    Args:
        prepared: The network, its images and their clean logits.
    """
    predicted, counts = prepared.logits.argmax(1), prepared.y.bincount()
    classes, largest = len(predicted.unique()), float(counts.max() / len(prepared.y))
    accuracy = float(prepared.right().double().mean())
    return CheckResult(
        "tells_classes_apart",
        int((counts > 0).sum()) < 2 or (classes > 1 and accuracy > largest),
        {"classes": classes, "clean_error": 1 - accuracy, "error_of_one_answer": 1 - largest},
    )


def normalised_inside(network: nn.Module, x: Tensor, y: Tensor, batches: Batches | None = None) -> CheckResult:
    """Checks that the network expects pixels in [0, 1], with any normalisation inside the network.

    The check fails if another input range at least halves the clean error, beyond chance (McNemar's test). The ranges are
    channels with mean 0 and standard deviation 1, pixels in [-1, 1], and pixels in [0, 255].

    Args:
        network: Maps images to logits (N, K); unchanged by the check.
        x: Clean images (N, C, ...) with pixels in [0, 1].
        y: True labels, (N,) int64.
        batches: Batch sizes; passes of 256 images if None.
    """
    mean, spread = _moments(x)
    ways = {"standardised": (x - mean) / spread, "signed": 2 * x - 1, "bytes": 255 * x}
    with frozen(network):
        wrong = (predict(network, x, batches).argmax(1) != y).cpu().numpy()
        others = {}
        for name, points in ways.items():
            logits = torch.cat([_logits(network, part) for part in points.split((batches or Batches(FORWARD_ONLY)).size)])
            # Another input range may overflow the network. Such an image counts as misclassified.
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
    """Returns the mean and standard deviation of each channel of images (N, C, ...), in shapes that broadcast to x."""
    axes = [axis for axis in range(x.ndim) if axis != 1] if x.ndim > 2 else list(range(x.ndim))
    spread = (x - x.mean(axes, keepdim=True)).square().mean(axes, keepdim=True).sqrt()
    return x.mean(axes, keepdim=True), spread.clamp(min=1e-6)
