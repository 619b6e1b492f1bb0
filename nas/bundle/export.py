"""Atomic export of a bundle, with all formats that give the same logits as the network."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from evaluators import save_profile
from nas.bundle.card import model_card
from nas.bundle.export_formats import FORMATS, logits_of, write_formats
from nas.bundle.manifest import is_bundle, write_manifest
from nas.bundle.source import copy_sources, without_places
from nas.config.writer import as_data
from nas.errors import RunError, format_error
from nas.plots.cells import draw
from nas.plots.profile import error_curves_figure
from nas.spaces.stored import FILE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from evaluators import RobustnessProfile
    from nas.bundle.manifest import Provenance
    from nas.study.finalists import Candidate
    from nas.training.network import Normalised
    from search_spaces import SearchSpace

# Largest allowed difference between the logits of two formats. The difference is relative to the largest absolute logit if
# that is above 1, because rounding errors grow with the logits.
TOLERANCE = 1e-4


def export_bundle(
    folder: Path,
    candidate: Candidate,
    space: SearchSpace,
    network: Normalised,
    profile: RobustnessProfile,
    images: Tensor,
    provenance: Provenance,
    forms: Collection[str] = FORMATS,
) -> None:
    """Writes a bundle: architecture, weights, model.pt2, model.onnx, profile, radii, card, plots and manifest.

    The bundle is written to a temporary folder, which is then renamed to `folder`. So a bundle is complete if it exists. A
    format that fails or does not give the logits of the network is left out, and the manifest has the reason.

    Args:
        folder: Folder of the bundle, which must not exist.
        candidate: Architecture and name of the bundle.
        space: Search space of the architecture.
        network: Trained network, in evaluation mode on the CPU.
        profile: Profile of the network on the test split.
        images: Images (N, C, H, W) on the CPU, N >= 2, with pixels in [0, 1], on which the formats must agree.
        provenance: Config, seed, data and environment of the training.
        forms: Formats of the network to write, of `FORMATS`.

    Raises:
        OSError: a file cannot be written.
    """
    # The name has the process id, because another process may export the same bundle.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        _write(partial, candidate, space, network, profile, images, provenance, forms)
        partial.rename(folder)
    except OSError:  # If another process has exported this bundle meanwhile, its bundle is kept.
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
    forms: Collection[str],
) -> None:
    """Writes all files of a bundle; the manifest comes last."""
    (folder / "plots").mkdir(parents=True)
    stored = {
        "space": copy_sources({"name": candidate.space.name, "options": as_data(dict(candidate.space.options))}, folder),
        "architecture": dict(candidate.architecture),
        "key": candidate.key,
        "input_shape": list(images.shape[1:]),
        "num_classes": len(provenance.classes),
        "classes": list(provenance.classes),
    }
    (folder / FILE).write_text(yaml.safe_dump(stored, sort_keys=False), encoding="utf-8")
    metadata = {
        "classes": json.dumps(list(provenance.classes)),
        "input": "images (N, C, H, W) with pixels in [0, 1]",
        "output": "logits (N, K)",
        "name": candidate.name,
        "architecture": candidate.key,
    }
    not_exported, differences = write_checked_formats(network, images, folder, forms, metadata)
    save_profile(profile, folder)
    (folder / "plots" / "error_curves.svg").write_text(
        error_curves_figure(profile, provenance.norm, provenance.epsilon), encoding="utf-8"
    )
    cell = _draw(folder, candidate, space)
    lacking = [form for form in FORMATS if form not in forms or form in not_exported]
    (folder / "README.md").write_text(model_card(candidate, profile, provenance, cell, lacking), encoding="utf-8")
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
            "not_exported": not_exported,
            "config": copy_sources(without_places(provenance.config), folder),
        },
    )


def _draw(folder: Path, candidate: Candidate, space: SearchSpace) -> str:
    """Writes the drawing of the architecture, if there is one, and returns the card's line for it."""
    try:
        drawing = draw(space, candidate.architecture)
    except RunError as error:  # A failed drawing must not prevent the export.
        return f"No drawing: {error}"
    if drawing is None:
        return ""
    (folder / "plots" / "cell.svg").write_bytes(drawing)
    return "![The cell](plots/cell.svg)"


def write_checked_formats(
    network: Normalised, images: Tensor, folder: Path, forms: Collection[str], metadata: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, float]]:
    """Writes a network in all formats of `forms`, and removes those whose logits differ from those of the network.

    Returns:
        Two mappings by file name. The first has the reason for each format that failed or whose logits differ by more than
        `TOLERANCE`. The second has, for each other format except the weights, the `difference` between its logits and those
        of the network.
    """
    failed = write_formats(network, images[:2], folder, metadata, forms)
    not_exported = {name: reason for name, reason in failed.items() if name in forms}
    expected = logits_of(FORMATS[0], folder, images, network)
    differences = {}
    for form in (form for form in FORMATS[1:] if form in forms and form not in not_exported):
        try:
            logits = logits_of(form, folder, images, trust=True)
            apart = difference(logits, expected)
        except Exception as error:  # The type of the error depends on the format's library.
            not_exported[form] = format_error(error)
        else:
            if logits.dtype == expected.dtype and apart <= TOLERANCE:
                differences[form] = apart
                continue
            not_exported[form] = f"its logits differ from those of the network by {apart:.2g}"
            if logits.dtype != expected.dtype:
                not_exported[form] = f"its logits are {logits.dtype}, those of the network {expected.dtype}"
        (folder / form).unlink()
    return not_exported, differences


def failed_exports(network: Normalised, images: Tensor, forms: Collection[str]) -> dict[str, str]:
    """Exports a network to a temporary folder. Returns the reason of each failed export, by file name.

    Args:
        network: Network, untrained or trained. It is moved to the CPU and set to evaluation mode.
        images: Images (N, C, H, W) on the CPU, N >= 3, with pixels in [0, 1].
        forms: Formats to try, of `FORMATS`.
    """
    network = network.cpu().to(memory_format=torch.contiguous_format).eval()
    with tempfile.TemporaryDirectory() as folder:
        try:
            return write_checked_formats(network, images, Path(folder), forms, {})[0]
        except (Exception, SystemExit) as error:  # safetensors and the layers of a custom space may raise any error.
            return {FORMATS[0]: format_error(error)}


def difference(logits: Tensor, expected: Tensor) -> float:
    """Returns the largest absolute difference of logits (N, K), divided by the largest absolute expected one if above 1."""
    return float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))
