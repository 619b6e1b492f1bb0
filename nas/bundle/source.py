"""Prepares a bundle for other machines: copies the user's code, and leaves out paths and addresses.

The copied code runs only with `trust=True`. Images are not copied.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.files import read_plain_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = "source"
# Data sources whose `path` leads to the user's own images. For other sources, `path` is the folder of a download.
USER_IMAGES = ("folder", "npz")


def copy_sources(content: Any, folder: Path) -> Any:
    """Copies the Python files to which plain data refers, and returns the data with references to the copies.

    A reference `/path/to/file.py:NAME` becomes `source/file.py:NAME`. Modules that the file imports are not copied.

    Args:
        content: Plain data: mappings, lists and values.
        folder: Folder of the bundle.

    Raises:
        OSError: a file cannot be read or written.
    """
    if isinstance(content, dict):
        return {key: copy_sources(value, folder) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [copy_sources(value, folder) for value in content]
    if not isinstance(content, str):
        return content
    place, colon, name = content.rpartition(":")
    path = Path(place)
    if not colon or not name.isidentifier() or path.suffix != ".py" or not path.is_absolute() or not path.is_file():
        return content
    return f"{FOLDER}/{_copy(path, folder / FOLDER)}:{name}"


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config, as plain data, without paths of images, and without the addresses of a database and a cluster.

    Only the last part of the path of a user's images is kept. `data_settings` reads the whole path from the run's config.
    """
    data, search = dict(config["data"]), dict(config["search"])
    if data.get("path") is not None:
        data["path"] = Path(data["path"]).name if data["name"] in USER_IMAGES else None
    if search.get("storage") is not None:
        search["storage"] = None
    if isinstance(search.get("executor"), dict):
        search["executor"] = {key: value for key, value in search["executor"].items() if key != "address"}
    return {**config, "data": data, "search": search}


def data_settings(folder: Path, manifest: Mapping[str, Any]) -> Any:
    """Returns the section `data` of a bundle's config.

    If the bundle lies in its run's folder, the path of the images is taken from the run's config. Bundles of earlier
    versions hold the whole path, which is returned unchanged.

    Args:
        folder: Folder of the bundle.
        manifest: Content of its manifest.
    """
    data, place = manifest["config"].get("data"), folder.resolve().parent
    if not isinstance(data, dict) or Path(str(data.get("path") or "")).is_absolute() or place.name != "bundles":
        return data
    try:
        of_run = read_plain_yaml(place.parent / "config.yaml")["data"]
        path = of_run["path"] if of_run["name"] == data.get("name") else None
        # Relative paths in a config are relative to its folder.
        return data if path is None else {**data, "path": str(place.parent / Path(path).expanduser())}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # The config is missing, or another program wrote it.
        return data


def has_place(data: Any) -> bool:
    """Returns whether a section `data` tells where the images are; for images from the user, by an absolute path."""
    return not isinstance(data, dict) or data.get("name") not in USER_IMAGES or Path(str(data.get("path"))).is_absolute()


def _copy(path: Path, folder: Path) -> str:
    """Copies a file to a folder and returns the copy's name, with a hash if the folder has another file of the same name."""
    source = path.read_bytes()
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    if target.exists() and target.read_bytes() != source:
        target = folder / f"{path.stem}_{hashlib.sha256(source).hexdigest()[:8]}.py"
    target.write_bytes(source)
    return target.name
