"""Exporting a bundle: whole or not at all, and only if all forms of the network agree."""

from __future__ import annotations

import os
import shutil
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import yaml

from evaluators import save_profile
from nas.bundle.card import model_card
from nas.bundle.export_formats import FORMATS, logits_of, write_formats
from nas.bundle.manifest import is_bundle, write_manifest
from nas.config.writer import as_data
from nas.errors import BundleError, RunError
from nas.plots.cells import draw
from nas.plots.profile import error_curves_figure
from nas.spaces.stored import FILE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from evaluators import RobustnessProfile
    from nas.bundle.manifest import Provenance
    from nas.study.finalists import Candidate
    from nas.training.network import Normalised
    from search_spaces import SearchSpace

# How far the logits of two forms may lie apart; where the largest is above 1, a share of it, for so large is its rounding.
TOLERANCE = 1e-4


def export_bundle(
    folder: Path,
    candidate: Candidate,
    space: SearchSpace,
    network: Normalised,
    profile: RobustnessProfile,
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
        profile: Its profile on the test split.
        images: Some images (N, C, H, W) on the CPU, at least 2, on which the forms must agree.
        provenance: What made the network.

    Raises:
        BundleError: the forms of the network do not give the same logits.
    """
    # Named by the process: another one may be making the same bundle.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        _write(partial, candidate, space, network, profile, images, provenance)
        partial.rename(folder)
    except OSError:
        if not is_bundle(folder):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path,
    candidate: Candidate,
    space: SearchSpace,
    network: Normalised,
    profile: RobustnessProfile,
    images: Tensor,
    provenance: Provenance,
) -> None:
    """Writes all files of a bundle, the manifest last."""
    (folder / "plots").mkdir(parents=True)
    stored = {
        "space": {"name": candidate.space.name, "options": as_data(dict(candidate.space.options))},
        "architecture": dict(candidate.architecture),
        "key": candidate.key,
        "input_shape": list(images.shape[1:]),
        "num_classes": len(provenance.classes),
        "classes": list(provenance.classes),
    }
    (folder / FILE).write_text(yaml.safe_dump(stored, sort_keys=False), encoding="utf-8")
    write_formats(network, images[:2], folder)
    differences = _differences(network, images, folder)
    save_profile(profile, folder)
    (folder / "plots" / "error_curves.svg").write_text(
        error_curves_figure(profile, provenance.norm, provenance.epsilon), encoding="utf-8"
    )
    cell = _draw(folder, candidate, space)
    (folder / "README.md").write_text(model_card(candidate, profile, provenance, cell), encoding="utf-8")
    write_manifest(
        folder,
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


def _draw(folder: Path, candidate: Candidate, space: SearchSpace) -> str:
    """Writes the drawing of the architecture, if there is one; returns what the card says of it."""
    try:
        drawing = draw(space, candidate.architecture)
    except RunError as error:  # A network is not lost for the want of its drawing.
        return f"No drawing: {error}"
    if drawing is None:
        return ""
    (folder / "plots" / "cell.svg").write_bytes(drawing)
    return "![The cell](plots/cell.svg)"


def _differences(network: Normalised, images: Tensor, folder: Path) -> dict[str, float]:
    """Returns the largest difference of each form's logits from the network's.

    Raises:
        BundleError: one is not within 1e-4 of them, or of the largest logit where that is above 1.
    """
    expected = logits_of(FORMATS[0], folder, images, network)
    differences = {}
    for form in FORMATS[1:]:
        differences[form] = difference(logits_of(form, folder, images), expected)
        if not differences[form] <= TOLERANCE:
            raise BundleError(f"{folder}: {form} gives other logits than the network, by {differences[form]:.2g}")
    return differences


def difference(logits: Tensor, expected: Tensor) -> float:
    """Returns the largest difference of logits (N, K) from those expected, over the largest of these if that is above 1."""
    return float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))
