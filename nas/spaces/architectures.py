"""Architectures in YAML: published names, files, earlier runs, or mappings of choices."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from nas.errors import first_line
from search_spaces import PUBLISHED, Architecture, SearchSpace

# An architecture, or the folder of an earlier run whose finalists are used.
InitialArchitecture = Architecture | Path


def read_architectures(reference: Any, folder: Path | None) -> list[InitialArchitecture]:
    """Returns the architectures of a YAML entry, without validation.

    Args:
        reference: One of: the name of a published architecture; a mapping of choices; the folder of a run; or a YAML file.
            The file holds a mapping of choices, the same under the key `architecture` (as in a bundle's architecture.yaml),
            or a list of entries.
        folder: Base of relative paths; the working directory if None.

    Returns:
        Architectures. The folder of a run is returned as its absolute path.

    Raises:
        ValueError: the name is unknown, the folder holds no run, or the file is unreadable or holds no architecture.
    """
    if isinstance(reference, str):
        if reference in PUBLISHED:
            return [PUBLISHED[reference].architecture]
        path = Path(folder or ".", Path(reference).expanduser())
        if path.is_dir():
            if not (path / "config.yaml").is_file():
                raise ValueError(f"{path}: holds no run (no config.yaml)")
            return [path.resolve()]
        if not reference.endswith((".yaml", ".yml")):
            near = difflib.get_close_matches(reference, PUBLISHED, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"must be one of {', '.join(PUBLISHED)}, a YAML file, a run's folder, or choices, got {reference!r}{hint}"
            )
        try:
            reference = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            message = error.strerror if isinstance(error, OSError) else first_line(error)
            raise ValueError(f"{path}: {message}") from error
        if isinstance(reference, dict) and isinstance(reference.get("architecture"), dict):
            reference = reference["architecture"]
        if isinstance(reference, list):
            try:
                return [architecture for entry in reference for architecture in read_architectures(entry, path.parent)]
            except RecursionError as error:
                raise ValueError(f"{path}: must not contain itself") from error
        if not isinstance(reference, dict):
            raise ValueError(f"{path}: must hold a mapping of choices, or a list of them, got {reference!r}")
    if not isinstance(reference, dict):
        raise ValueError(f"must be a name, a YAML file, or a mapping of choices, got {reference!r}")
    return [dict(reference)]


def validate_initial(architecture: Architecture, space: SearchSpace) -> str | None:
    """Returns the reason why a search cannot start with an architecture, or None."""
    try:
        architecture = space.validate(architecture)
    except ValueError as error:
        return f"is {_other_space_of(architecture) or error}"
    graphs = space.graphs(architecture) if space.graphs is not None else {}
    if graphs and not any(graph.connected for graph in graphs.values()):
        return f"has no path from input to output in any cell of {space.name}; set operations other than none on a path"
    return None


def _other_space_of(architecture: Architecture) -> str | None:
    """Returns the name and space of a published architecture, for messages; None for any other architecture."""
    for name, published in PUBLISHED.items():
        if architecture == published.architecture:
            options = ", ".join(f"{key}: {str(value).lower()}" for key, value in published.options.items())
            return f"{name}, which is valid only in space: {{name: {published.space.name}, {options}}}"
    return None
