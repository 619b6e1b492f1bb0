"""Exporting a bundle: whole or not at all, and only if all forms of the network agree."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, final

import yaml

from evaluators import save_profile
from nas.bundle.card import model_card
from nas.bundle.forms import FORMS, logits_of, write_forms
from nas.bundle.manifest import write_manifest
from nas.config_file import as_data
from nas.errors import BundleError
from nas.report.figures import profile_figure

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from evaluators import RobustnessProfile
    from nas.finalists import Candidate
    from nas.training.network import Normalised
    from search_spaces import SearchSpace

TOLERANCE = 1e-4


@final
@dataclass(frozen=True)
class Provenance:
    """What made a network.

    Attributes:
        config: The run's complete config, as plain data.
        seed: Seed of the final training.
        kept_epoch: The epoch whose weights were kept.
        classes: Names of the classes.
        data: Hashes of the splits, by name.
        environment: Versions and machine.
        norm: Name of the norm of the search.
        epsilon: The epsilon of the search.
    """

    config: Mapping[str, Any]
    seed: int
    kept_epoch: int
    classes: tuple[str, ...]
    data: Mapping[str, str]
    environment: Mapping[str, Any]
    norm: str
    epsilon: float


def export_bundle(
    folder: Path,
    candidate: Candidate,
    space: SearchSpace,
    network: Normalised,
    found: RobustnessProfile,
    images: Tensor,
    provenance: Provenance,
) -> None:
    """Writes a bundle: architecture, weights, model.pt2, model.onnx, profile, radii, card, plots and manifest.

    It is written beside its place and moved there when complete, so a folder with a manifest is a whole bundle.

    Args:
        folder: The bundle's folder, which does not exist.
        candidate: The architecture and its name.
        space: The space that it comes from.
        network: The trained network, in evaluation mode on the CPU.
        found: Its profile on the test split.
        images: Some images (N, C, H, W) on the CPU, at least 2, on which the forms must agree.
        provenance: What made the network.

    Raises:
        BundleError: the forms of the network do not give the same logits.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "plots").mkdir(parents=True)
    stored = {
        "space": {"name": candidate.space.name, "options": as_data(dict(candidate.space.options))},
        "architecture": dict(candidate.architecture),
        "key": candidate.key,
        "input_shape": list(images.shape[1:]),
        "num_classes": len(provenance.classes),
        "classes": list(provenance.classes),
    }
    (partial / "architecture.yaml").write_text(yaml.safe_dump(stored, sort_keys=False), encoding="utf-8")
    write_forms(network, images[:2], partial)
    differences = _differences(network, images, partial)
    save_profile(found, partial)
    (partial / "plots" / "error_curves.svg").write_text(
        profile_figure(found, provenance.norm, provenance.epsilon), encoding="utf-8"
    )
    if space.draw is not None:
        (partial / "plots" / "cell.svg").write_text(space.draw(candidate.architecture), encoding="utf-8")
    (partial / "README.md").write_text(model_card(candidate, found, provenance, space.draw is not None), encoding="utf-8")
    write_manifest(
        partial,
        {
            "name": candidate.name,
            "role": candidate.role,
            "trial": candidate.trial,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": provenance.seed,
            "kept_epoch": provenance.kept_epoch,
            "epsilon": provenance.epsilon,
            "data": dict(provenance.data),
            "environment": dict(provenance.environment),
            "logits_difference": differences,
            "config": dict(provenance.config),
        },
    )
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _differences(network: Normalised, images: Tensor, folder: Path) -> dict[str, float]:
    """Returns the largest difference of each form's logits from the network's.

    Raises:
        BundleError: one is not within 1e-4.
    """
    expected = logits_of(FORMS[0], folder, images, network)
    differences = {}
    for form in FORMS[1:]:
        differences[form] = float((logits_of(form, folder, images) - expected).abs().max())
        if not differences[form] <= TOLERANCE:
            raise BundleError(f"{folder}: {form} gives other logits than the network, by {differences[form]:.2g}")
    return differences
