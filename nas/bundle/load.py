"""Loads bundles with verified checksums, as data: without pickle, and without the code that a bundle refers to.

The network of a bundle is built by its search space. A custom space is code, so it is imported only with `trust=True`.
Without trust, the network of such a bundle is that of model.pt2.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from evaluators import RobustnessProfile, load_profile
from nas.bundle.export_formats import WEIGHTS
from nas.bundle.exported import open_exported
from nas.bundle.manifest import check_files, epsilon_and_norm, is_bundle, read_manifest
from nas.errors import BundleError, first_line
from nas.resolve import UntrustedCodeError
from nas.spaces.options import open_space
from nas.spaces.stored import FILE, StoredArchitecture, read_stored
from nas.training.network import Normalised


@final
@dataclass(frozen=True)
class LoadedNetwork:
    """Network of a bundle, with the bundle's records.

    Attributes:
        network: Network in evaluation mode on the CPU, from images (N, C, H, W) in [0, 1] to logits (N, K).
        manifest: Content of manifest.json.
        stored: Content of architecture.yaml.
        refused: Reason why the network is that of model.pt2; None if it is built by its search space.
    """

    network: nn.Module
    manifest: dict[str, Any] = field(repr=False)
    stored: StoredArchitecture = field(repr=False)
    refused: str | None = None


def load(folder: Path | str, *, trust: bool = False) -> nn.Module:
    """Returns the network of a bundle, in evaluation mode on the CPU.

    The network maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K). Checksums are verified first.

    Args:
        folder: Folder of the bundle.
        trust: Import the code of a custom search space. Without it, the network of such a bundle is the graph in model.pt2.

    Raises:
        BundleError: the bundle is missing, damaged or tampered with, or its network cannot be built.

    Example:
        >>> import nas, torch
        >>> bundle = nas.read_run("runs/digits").bundles[0]
        >>> network = nas.load(bundle.folder)
        >>> network(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    return load_network(Path(folder).expanduser(), trust=trust).network


def load_network(folder: Path, *, trust: bool = False) -> LoadedNetwork:
    """Returns the network of a bundle with its records; arguments and errors as for `load`."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return load_checked(folder, manifest, trust=trust)


def load_checked(folder: Path, manifest: dict[str, Any], *, trust: bool) -> LoadedNetwork:
    """Returns the network of a bundle whose checksums are verified; errors as for `load`."""
    stored = read_architecture(folder)
    try:
        return LoadedNetwork(rebuild(folder, stored, trust=trust), manifest, stored)
    except UntrustedCodeError as error:
        if not (folder / "model.pt2").exists():
            raise BundleError(
                f"{folder}: the search space {error}; there is no model.pt2, which could be loaded without this code"
            ) from error
        return LoadedNetwork(_exported(folder), manifest, stored, refused=f"the search space {error}")


def _exported(folder: Path) -> nn.Module:
    try:
        return open_exported(folder / "model.pt2")
    except Exception as error:  # The type of the error depends on the damage.
        raise BundleError(f"{folder}: model.pt2 cannot be opened: {first_line(error)}") from error


def rebuild(folder: Path, stored: StoredArchitecture, *, trust: bool = False) -> nn.Module:
    """Returns the network from a bundle's architecture and weights, in evaluation mode. Checksums are not verified.

    Raises:
        UntrustedCodeError: the search space is custom, and `trust` is false.
        BundleError: the search space is unknown or cannot build the architecture, or the weights do not fit the network.
    """
    channels = stored.input_shape[0]
    try:
        space = open_space(stored.space, trust=trust)
        body = space.build(space.validate(stored.architecture), stored.input_shape, stored.num_classes)
        network = Normalised(body, torch.zeros(channels), torch.ones(channels))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except UntrustedCodeError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{folder}: its network cannot be rebuilt: {first_line(error)}; open model.pt2 with torch or model.onnx with "
            "onnxruntime instead"
        ) from error
    return network.eval()


# Files that `open_bundle` reads and verifies.
_RECORDS = (FILE, "profile.json", "radii.npz")


@final
@dataclass(frozen=True)
class Bundle:
    """Records of a bundle, without its network.

    Attributes:
        folder: Folder of the bundle.
        name: Name of the bundle: rank and hash of a finalist, role and hash of a reference.
        role: finalist, random or residual.
        manifest: Content of manifest.json.
        stored: Content of architecture.yaml.
        profile: Robustness profile of the network.
    """

    folder: Path
    name: str
    role: str
    manifest: dict[str, Any] = field(repr=False)
    stored: StoredArchitecture = field(repr=False)
    profile: RobustnessProfile = field(repr=False)

    @property
    def epsilon(self) -> float:
        """Epsilon of the search, in pixel units."""
        return epsilon_and_norm(self.manifest)[0]

    @property
    def norm(self) -> str:
        """Name of the search's norm."""
        return epsilon_and_norm(self.manifest)[1]


def open_bundle(folder: Path) -> Bundle:
    """Returns the records of a bundle. The formats of its network are neither read nor verified.

    Raises:
        BundleError: the bundle is missing, damaged or tampered with.
    """
    record = read_manifest(folder)
    check_files(folder, record, _RECORDS)
    return Bundle(folder, record["name"], record["role"], record, read_architecture(folder), read_profile(folder))


@final
@dataclass(frozen=True)
class DamagedBundle:
    """A bundle that cannot be read.

    Attributes:
        folder: Folder of the bundle.
        reason: Damage and remedy.
    """

    folder: Path
    reason: str


def open_bundles(folder: Path) -> tuple[list[Bundle], list[DamagedBundle]]:
    """Returns the readable bundles in a folder (finalists by rank, then references) and the damaged ones, by name."""
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    bundles, damaged = [], []
    for place in places:
        if place.name.startswith(".") or not is_bundle(place):
            continue
        if place.is_symlink():
            damaged.append(DamagedBundle(place, f"{place}: is a link; the run's folder must hold the bundle itself"))
            continue
        try:
            bundles.append(open_bundle(place))
        except BundleError as error:
            remedy = "remove its folder and make it again with `hardcell resume` or `hardcell export`"
            damaged.append(DamagedBundle(place, f"{error}; {remedy}"))

    def order(bundle: Bundle) -> tuple[bool, int, str]:
        rank = bundle.name.split("-")[0]
        return bundle.role != "finalist", int(rank) if rank.isdigit() else 0, bundle.name

    return sorted(bundles, key=order), damaged


def read_architecture(folder: Path) -> StoredArchitecture:
    """Returns the content of a bundle's architecture.yaml.

    Raises:
        BundleError: the file is missing or damaged.
    """
    try:
        return read_stored(folder / FILE)
    except ValueError as error:
        raise BundleError(f"{folder}: {FILE} is damaged: {error}") from error


def read_profile(folder: Path) -> RobustnessProfile:
    """Returns the robustness profile of a bundle.

    Raises:
        BundleError: the profile is missing or damaged.
    """
    try:
        return load_profile(folder)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder}: its profile is damaged: {error}") from error
