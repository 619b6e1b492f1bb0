"""Verifying a bundle: are the files those that were exported, do the forms agree, do the numbers come out again?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from evaluators import error_curve, radii
from nas.bundle.export import TOLERANCE
from nas.bundle.forms import FORMS, logits_of
from nas.bundle.load import load, read_architecture, read_profile
from nas.bundle.manifest import check_files, read_manifest
from nas.config_file import parse_config
from nas.data import open_test
from nas.errors import BundleError, DataError

if TYPE_CHECKING:
    from torch import nn

    from evaluators import RobustnessProfile
    from nas.config import Config
    from nas.data import Split


@final
@dataclass(frozen=True)
class Verification:
    """One thing that was verified.

    Attributes:
        name: What.
        passed: Whether it holds; None if it could not be tried.
        detail: The numbers, or the reason.
    """

    name: str
    passed: bool | None
    detail: str


def verify(folder: Path | str) -> list[Verification]:
    """Returns what was verified of a bundle: checksums, the logits of all forms, the error curve of each attack.

    A curve passes if every error measured again lies within the interval of the stored one.

    Raises:
        BundleError: the folder is no bundle.
    """
    folder = Path(folder).expanduser()
    record = read_manifest(folder)
    try:
        check_files(folder, record)
    except BundleError as error:
        # Files that are not the exported ones are not loaded, let alone measured.
        return [Verification("checksums", False, str(error))]
    outcomes = [Verification("checksums", True, f"{len(record['files'])} files")]
    found, network = read_profile(folder), load(folder)
    config = parse_config(record["config"], source=f"{folder}/manifest.json")
    try:
        test = open_test(config.data).first(found.record["n"])
    except DataError as error:
        shape = read_architecture(folder)["input_shape"]
        images = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
        return [
            *outcomes,
            *_forms(folder, network, images),
            Verification("error curves", None, f"the images are not here: {error}"),
        ]
    outcomes += _forms(folder, network, test.x[:64])
    if test.hash != record["data"]["test"]:
        detail = f"the test split here has hash {test.hash}, the profile's was {record['data']['test']}"
        return [*outcomes, Verification("error curves", None, detail)]
    return outcomes + [_curve(name, network, test, found, config) for name in found.record["attacks"]]


def _forms(folder: Path, network: nn.Module, images: torch.Tensor) -> list[Verification]:
    expected = logits_of(FORMS[0], folder, images, network)
    outcomes = []
    for form in FORMS[1:]:
        difference = float((logits_of(form, folder, images) - expected).abs().max())
        detail = f"logits within {difference:.1e} of those of {FORMS[0]} on {len(images)} images"
        outcomes.append(Verification(form, difference <= TOLERANCE, detail))
    return outcomes


def _curve(name: str, network: nn.Module, test: Split, found: RobustnessProfile, config: Config) -> Verification:
    entry = found.record["attacks"][name]
    if name not in config.finalists.attacks:
        return Verification(f"error curve, {name}", None, "the attack is not in the bundle's config")
    again = radii(
        network, test.x, test.y, config.finalists.attacks[name], entry["epsilons"], seed=found.record["seed"]
    ).numpy()
    errors = error_curve(again, entry["epsilons"]).error
    outside = [
        f"{error:.3f} at {epsilon:g}"
        for error, epsilon, (low, high) in zip(errors, entry["epsilons"], entry["error_interval"], strict=True)
        if not low <= error <= high
    ]
    largest = float(abs(errors - entry["error"]).max())
    detail = f"{len(errors)} errors measured again on {len(test.x)} images, largest difference {largest:.4f}"
    if outside:
        detail += "; outside the interval: " + ", ".join(outside)
    return Verification(f"error curve, {name}", not outside, detail)
