"""Loading a bundle: checked, and without pickle."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from evaluators import RobustnessProfile, load_profile
from nas.bundle.export_formats import WEIGHTS
from nas.bundle.manifest import check_files, is_bundle, read_manifest
from nas.errors import BundleError, first_line
from nas.spaces.config import SpaceConfig
from nas.spaces.options import open_space
from nas.training.network import Normalised

if TYPE_CHECKING:
    from torch import nn


def load(folder: Path | str) -> nn.Module:
    """Returns the network of a bundle, in evaluation mode on the CPU: images (N, C, H, W) in [0, 1] to logits (N, K).

    Raises:
        BundleError: the bundle is damaged or tampered with, or its space cannot be found.
    """
    folder = Path(folder).expanduser()
    check_files(folder, read_manifest(folder))
    stored = read_architecture(folder)
    try:
        space = open_space(SpaceConfig(name=stored["space"]["name"], options=stored["space"]["options"]))
        architecture = space.validate(stored["architecture"])
        shape = stored["input_shape"]
        body = space.build(architecture, (shape[0], shape[1], shape[2]), stored["num_classes"])
        network = Normalised(body, torch.zeros(shape[0]), torch.ones(shape[0]))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{folder}: its network cannot be rebuilt: {first_line(error)}; model.pt2 needs torch alone, "
            "model.onnx onnxruntime alone"
        ) from error
    return network.eval()


# What is read of a bundle without loading its network.
_TOLD = ("architecture.yaml", "profile.json", "radii.npz")


@final
@dataclass(frozen=True)
class Bundle:
    """What a bundle says of itself.

    Attributes:
        folder: Where it is.
        name: Rank and hash, or role and hash.
        role: finalist, random or residual.
        manifest: The content of manifest.json.
        stored: The content of architecture.yaml.
        profile: Its robustness profile.
    """

    folder: Path
    name: str
    role: str
    manifest: dict[str, Any] = field(repr=False)
    stored: dict[str, Any] = field(repr=False)
    profile: RobustnessProfile = field(repr=False)

    @property
    def space(self) -> SpaceConfig:
        """The space of its architecture."""
        return SpaceConfig(name=self.stored["space"]["name"], options=self.stored["space"]["options"])


def open_bundle(folder: Path) -> Bundle:
    """Returns what a bundle says of itself; the forms of its network are neither read nor checked.

    Raises:
        BundleError: there is no bundle, or it is damaged or tampered with.
    """
    record = read_manifest(folder)
    check_files(folder, record, _TOLD)
    return Bundle(folder, record["name"], record["role"], record, read_architecture(folder), read_profile(folder))


@final
@dataclass(frozen=True)
class DamagedBundle:
    """A bundle that cannot be read.

    Attributes:
        folder: Where it is.
        reason: What is damaged, and the remedy.
    """

    folder: Path
    reason: str


def open_bundles(folder: Path) -> tuple[list[Bundle], list[DamagedBundle]]:
    """Returns the bundles in a folder, finalists by rank, then references; and those that are damaged, by name."""
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    bundles, damaged = [], []
    for place in places:
        if place.name.startswith(".") or not is_bundle(place):
            continue
        try:
            bundles.append(open_bundle(place))
        except BundleError as error:
            remedy = "remove its folder, and `hardcell resume` or `hardcell export` makes it again"
            damaged.append(DamagedBundle(place, f"{error}; {remedy}"))

    def order(bundle: Bundle) -> tuple[bool, int, str]:
        rank = bundle.name.split("-")[0]
        return bundle.role != "finalist", int(rank) if rank.isdigit() else 0, bundle.name

    return sorted(bundles, key=order), damaged


def read_architecture(folder: Path) -> dict[str, Any]:
    """Returns the content of architecture.yaml.

    Raises:
        BundleError: it is missing or damaged.
    """
    try:
        stored = yaml.safe_load((folder / "architecture.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BundleError(f"{folder}: architecture.yaml is damaged: {error}") from error
    if not isinstance(stored, dict) or not {"space", "architecture", "input_shape", "num_classes"} <= set(stored):
        raise BundleError(f"{folder}: architecture.yaml is damaged")
    return stored


def read_profile(folder: Path) -> RobustnessProfile:
    """Returns the robustness profile of a bundle.

    Raises:
        BundleError: it is missing or damaged.
    """
    try:
        return load_profile(folder)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder}: its profile is damaged: {error}") from error
