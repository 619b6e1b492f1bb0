"""Runs checks of a search space on random architectures. A search relies on the properties that the checks test.

    for result in check_space(SPACE):
        print(result.check, result.passed, result.message)

On the command line: `hardcell space path/to/file.py:SPACE --check`.
"""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from search_spaces.checks.canonical import canonical_equal_functions, canonical_idempotent, canonical_valid
from search_spaces.checks.choices import canonical_complete, reachable, round_trip, used
from search_spaces.checks.networks import (
    batch_independent,
    builds,
    deterministic,
    global_state,
    gradients,
    images_unchanged,
    raw_logits,
    shapes,
)
from search_spaces.checks.parameters import registered_layers, separate_parameters, trainable_parameters
from search_spaces.checks.space_under_test import CheckFailure, CheckHint, CheckSkipped, Shape, SpaceUnderTest, format_error
from search_spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Each check returns a summary, or raises CheckFailure, CheckHint or CheckSkipped. A fault is reported by one check, and the
# other checks skip the architecture.
CHECKS: dict[str, Callable[[SpaceUnderTest], str]] = {
    "builds": builds,
    "shapes": shapes,
    "registered_layers": registered_layers,
    "separate_parameters": separate_parameters,
    "trainable_parameters": trainable_parameters,
    "raw_logits": raw_logits,
    "images_unchanged": images_unchanged,
    "gradients": gradients,
    "batch_independent": batch_independent,
    "deterministic": deterministic,
    "global_state": global_state,
    "round_trip": round_trip,
    "canonical_valid": canonical_valid,
    "canonical_idempotent": canonical_idempotent,
    "canonical_equal_functions": canonical_equal_functions,
    "reachable": reachable,
    "used": used,
    "canonical_complete": canonical_complete,
}
SHAPES: tuple[Shape, ...] = ((3, 32, 32), (1, 28, 28), (3, 24, 40))


@final
@dataclass(frozen=True)
class CheckResult:
    """Result of one check.

    Attributes:
        check: Name of the check.
        passed: Whether the check passed; None if it could not run.
        message: The fault with its place and remedy, or a summary if the check passed.
        architecture: Architecture that shows the fault; None if there is none.
        hint: Whether the message is advice. The check passed, and the architecture is an example.
    """

    check: str
    passed: bool | None
    message: str
    architecture: Architecture | None = None
    hint: bool = False


def json_round_trip(architecture: Architecture) -> object:
    """Writes an architecture as JSON and returns the value that is read back."""
    return json.loads(json.dumps(dict(architecture)))


def check_space(
    space: SearchSpace,
    *,
    samples: int = 20,
    seed: int = 0,
    input_shapes: Sequence[Shape] = SHAPES,
    num_classes: int = 7,
    formats: Mapping[str, Callable[[Architecture], object]] = {"JSON": json_round_trip},
) -> list[CheckResult]:
    """Runs all checks and returns one result for each, in the order of `CHECKS`.

    An error that the code of the space raises is the result of a check, not an error of this function.

    Args:
        space: Search space.
        samples: Number of random architectures, at least 1. Fast checks use ten times as many.
        seed: Random seed.
        input_shapes: Image shapes (C, H, W) for which networks must build. A shape that is not square shows whether height
            and width are swapped.
        num_classes: Number of classes K, at least 1.
        formats: Functions by name. Each writes an architecture as text and reads it back.

    Raises:
        ValueError: samples or num_classes is below 1, there is no shape, or a shape is not three numbers of at least 1.
    """
    if samples < 1 or num_classes < 1:
        raise ValueError(f"samples and num_classes must be at least 1, got {samples} and {num_classes}")
    if not input_shapes or any(len(shape) != 3 or min(shape) < 1 for shape in input_shapes):
        raise ValueError(f"input_shapes must hold (C, H, W) with values of at least 1, got {input_shapes}")
    under_test = SpaceUnderTest(space, samples, seed, input_shapes, num_classes, formats)
    results = []
    for name, check in CHECKS.items():
        with _preserve_global_state():
            results.append(_run_check(name, check, under_test))
    return results


def _run_check(name: str, check: Callable[[SpaceUnderTest], str], under_test: SpaceUnderTest) -> CheckResult:
    try:
        return CheckResult(name, True, check(under_test))
    except CheckFailure as failure:
        return CheckResult(name, False, str(failure), failure.architecture)
    except CheckHint as hint:
        return CheckResult(name, True, str(hint), hint.architecture, hint=True)
    except CheckSkipped as reason:
        return CheckResult(name, None, f"not tried: {reason}")
    except Exception as error:  # The code of the space may raise an error where no check expects one.
        return CheckResult(name, False, f"raises {format_error(error)}")


@contextmanager
def _preserve_global_state() -> Iterator[None]:
    """Restores the global state that the code of a space may change."""
    state, numpy_state = random.getstate(), np.random.get_state()
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
