"""Verifies a bundle: checksums of its files, agreement of its formats, and reproduction of its error curves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from evaluators import describe, error_curve, radii
from evaluators.engine.frozen import frozen
from evaluators.engine.prepared import predict
from nas.bundle.export import TOLERANCE, difference
from nas.bundle.export_formats import FORMATS, logits_of
from nas.bundle.load import read_architecture, read_profile, rebuild
from nas.bundle.manifest import check_files, read_manifest
from nas.config.files import parse_config
from nas.data import open_test
from nas.device import set_threads
from nas.errors import BundleError, DataError

if TYPE_CHECKING:
    from torch import nn

    from evaluators import RobustnessProfile
    from nas.config.schema import Config
    from nas.data import Split


@final
@dataclass(frozen=True)
class CheckResult:
    """Result of one check of a bundle.

    Attributes:
        name: Name of the check.
        passed: Whether the check passed; None if it could not run.
        detail: Numbers, or the reason of the failure.
    """

    name: str
    passed: bool | None
    detail: str


def verify(folder: Path | str) -> list[CheckResult]:
    """Verifies a bundle and returns the results: checksums, logits of all formats, clean error, error curve of each attack.

    A curve passes if every stored error, in profile.json and in radii.npz, lies in the 95 % interval of the new measurement.
    If the checksums fail, no other check runs.

    Args:
        folder: Folder of the bundle.

    Raises:
        BundleError: the folder is not a bundle, or its network cannot be rebuilt.

    Example:
        >>> import nas
        >>> bundle = nas.read_run("runs/digits").bundles[0]
        >>> [check.name for check in nas.verify(bundle.folder) if check.passed is False]
        []
    """
    folder = Path(folder).expanduser()
    record = read_manifest(folder)
    try:
        check_files(folder, record)
    except BundleError as error:
        # Files that differ from the exported ones are not loaded.
        return [CheckResult("checksums", False, str(error))]
    outcomes = [CheckResult("checksums", True, f"{len(record['files'])} files")]
    profile, stored = read_profile(folder), read_architecture(folder)
    network = rebuild(folder, stored)
    config = parse_config(record["config"], source=f"{folder}/manifest.json")
    try:
        test = open_test(config.data).first(profile.record["n"])
    except DataError as error:
        shape = stored.input_shape
        images = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
        return [
            *outcomes,
            *_forms(folder, network, images),
            CheckResult("error curves", None, f"the images cannot be opened: {error}"),
        ]
    set_threads(config.threads, test.x[0, 0].numel())
    outcomes += _forms(folder, network, test.x[:64])
    if test.hash != record["data"]["test"]:
        detail = f"the test split has hash {test.hash}, that of the profile had {record['data']['test']}"
        return [*outcomes, CheckResult("error curves", None, detail)]
    outcomes.append(_clean_error(network, test, profile))
    return outcomes + [_curve(name, network, test, profile, config) for name in profile.record["attacks"]]


def _forms(folder: Path, network: nn.Module, images: torch.Tensor) -> list[CheckResult]:
    expected = logits_of(FORMATS[0], folder, images, network)
    outcomes = []
    for form in FORMATS[1:]:
        try:
            apart = difference(logits_of(form, folder, images), expected)
        except Exception as error:  # The type of the error depends on the format's library.
            outcomes.append(CheckResult(form, False, f"cannot be run: {type(error).__name__}"))
            continue
        detail = f"logits within {apart:.1e} of those of {FORMATS[0]} on {len(images)} images"
        outcomes.append(CheckResult(form, apart <= TOLERANCE, detail))
    return outcomes


def _clean_error(network: nn.Module, test: Split, profile: RobustnessProfile) -> CheckResult:
    with frozen(network):
        error = float((predict(network, test.x).argmax(1) != test.y).double().mean())
    stored = profile.record["clean_error"]
    # Rounding may change the prediction of an image on the decision boundary, so one image may differ.
    passed = abs(error - stored) <= 1.5 / len(test.x)
    return CheckResult("clean error", passed, f"{error:.4f} measured again, {stored:.4f} stored")


def _curve(name: str, network: nn.Module, test: Split, profile: RobustnessProfile, config: Config) -> CheckResult:
    """Returns the result of the error curve of an attack: whether stored errors and radii lie in the new intervals."""
    entry, what = profile.record["attacks"][name], f"error curve, {name}"
    attack = config.finalists.attacks.get(name)
    if attack is None:
        return CheckResult(what, None, "the attack is not in the bundle's config")
    if entry["config"] != json.loads(json.dumps(describe(attack))):
        return CheckResult(what, False, "the attack's settings differ from those in the bundle's config")
    epsilons = entry["epsilons"]
    measured = error_curve(radii(network, test.x, test.y, attack, epsilons, seed=profile.record["seed"]).numpy(), epsilons)
    largest, outside = 0.0, []
    by_radii = error_curve(profile.radii[name], epsilons).error
    for source, stored in (("profile.json", entry["error"]), ("radii.npz", by_radii)):
        for error, again, (low, high), epsilon in zip(
            stored, measured.error, measured.error_interval, epsilons, strict=True
        ):
            largest = max(largest, abs(error - again))
            if not low <= error <= high:
                outside.append(f"{error:.3f} at {epsilon:g} in {source}")
    detail = f"{len(epsilons)} errors measured again on {len(test.x)} images, largest difference {largest:.4f}"
    if outside:
        detail += "; outside the interval: " + ", ".join(outside)
    return CheckResult(what, not outside, detail)
