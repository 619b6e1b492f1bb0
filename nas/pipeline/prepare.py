"""Opens the evaluator of a config, and checks it."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from evaluators import NORMS, parameters
from evaluators.attacks import EightBit
from evaluators.attacks.eight_bit_rounding import check_eight_bit
from nas.config.evaluators import TableEvaluatorConfig
from nas.data import check_test, open_data
from nas.device import SMALL_IMAGE, open_device, set_threads
from nas.errors import ConfigError, RunError
from nas.evaluation.table import open_table
from nas.evaluation.train_and_attack import TrainAndAttack
from nas.resolve import UntrustedCodeError
from nas.spaces.options import open_space
from nas.training.batches import images_in_batch
from nas.training.precision import default_precision, faster_precision, has_bfloat16

if TYPE_CHECKING:
    from nas.config.schema import Config
    from nas.evaluation.base import Evaluator
    from nas.runs.folder import RunFolder

# Number of random networks, the largest of which is measured to choose the precision.
MEASURED = 4


def prepare(config: Config, *, trust: bool = True) -> Evaluator:
    """Returns the evaluator of a config. If it uses images, they are on the device.

    Args:
        config: The config.
        trust: Import the code of a custom space.

    Raises:
        HardcellError: the device, the data, the table or the space is unusable, or an epsilon is too large for the images.
    """
    try:
        space = open_space(config.space, trust=trust)
    except UntrustedCodeError as error:
        raise ConfigError([f"the search space {error}"]) from error
    if isinstance(config.evaluator, TableEvaluatorConfig):
        return open_table(config, space)
    device = open_device(config.device)
    data = open_data(config.data)
    check_test(config.data, data.input_shape)
    data = replace(data, validation=data.validation.first(config.evaluation.images))
    set_threads(config.threads, data.train.x[0, 0].numel())
    evaluate = TrainAndAttack(config, space, data.to(device))
    pixels = data.train.x[0].numel()
    grids = [*(config.finalists.epsilons or {}).items(), *((norm, (e,)) for norm, e in config.epsilons_by_norm.items())]
    for norm, grid in (*grids, (config.norm, config.evaluation.grid())):
        largest = NORMS[norm]().largest(pixels)
        if max(grid) > largest:
            raise RunError(f"epsilon must be at most {largest:g} in {norm} on images of {pixels} values, got {max(grid):g}")
    if any(
        isinstance(attack, EightBit) for attack in (*config.evaluation.attacks.values(), *config.finalists.attacks.values())
    ):
        try:
            check_eight_bit(data.validation.x)
        except ValueError as error:
            raise RunError(f"the validation images cannot be used: {error}") from error
    return evaluate


def with_faster_precision(evaluate: Evaluator) -> Evaluator:
    """Returns the evaluator with the faster precision in place of auto, measured on the largest of some random networks.

    Networks of a custom space are not built here, because their code may do anything, such as never return.
    """
    config, device, networks = evaluate.config, evaluate.device, []
    if not isinstance(evaluate, TrainAndAttack) or config.training.precision != "auto" or not has_bfloat16(device):
        return evaluate
    x = evaluate.data.train.x
    x = x[: images_in_batch(config.training.batch_size, len(x))]
    if device.type == "cpu" and x[0, 0].numel() < SMALL_IMAGE:
        return evaluate
    with suppress(UntrustedCodeError):
        open_space(config.space, trust=False)
        for number in range(MEASURED):
            with suppress(Exception):  # A network that cannot be built fails in its trial, with the reason.
                networks.append(evaluate.build(evaluate.space.sample(random.Random(number)), number))
    precision = faster_precision(max(networks, key=parameters), x) if networks else default_precision(device)
    if precision == default_precision(device):
        return evaluate
    return replace(evaluate, config=replace(config, training=replace(config.training, precision=precision)))


def check_same_images(folder: RunFolder, evaluate: Evaluator) -> None:
    """Checks that a resumed run has the images or the table with which it began.

    Raises:
        RunError: they have changed, or their recorded hashes cannot be read.
    """
    if not folder.environment.exists():
        return
    try:
        recorded = dict(json.loads(folder.environment.read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder.environment}: damaged, so the images cannot be checked; remove it to resume without the check"
        ) from error
    for name, digest in evaluate.hashes.items():
        if recorded.get(name) != digest:
            what = "table has" if name == "table" else f"{name} images have"
            raise RunError(f"{folder.path}: the {what} changed since the run began; start a new run")
