"""Reads architecture.yaml: an architecture, its search space, and the input and output size of its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from nas.files import read_plain_yaml
from nas.resolve import absolute
from nas.spaces.config import SpaceConfig

if TYPE_CHECKING:
    from pathlib import Path

FILE = "architecture.yaml"
LARGEST_SIZE, LARGEST_CLASSES = 8192, 100_000


@final
@dataclass(frozen=True)
class StoredArchitecture:
    """The content of an architecture.yaml.

    Attributes:
        space: The search space that builds the network.
        architecture: The choices, without validation.
        input_shape: Channels, height and width of the images.
        num_classes: K, the number of logits.
        key: Hash of the canonical architecture; empty if the file has none.
        classes: Names of the K classes; empty if the file has none.
    """

    space: SpaceConfig
    architecture: Mapping[str, Any] = field(repr=False)
    input_shape: tuple[int, int, int]
    num_classes: int
    key: str = ""
    classes: tuple[str, ...] = ()


def read_stored(path: Path) -> StoredArchitecture:
    """Returns the content of an architecture.yaml. The architecture is not checked against the space.

    References to Python files get absolute paths; in the file they are relative to its folder.

    Raises:
        ValueError: the file is unreadable, or a key is missing or has a wrong type.
    """
    try:
        content = read_plain_yaml(path)
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    required = {"space": dict, "architecture": dict, "input_shape": list, "num_classes": int}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in required.items()):
        raise ValueError("must hold space, architecture, input_shape and num_classes, as in a bundle")
    space, shape, classes = content["space"], content["input_shape"], content.get("classes") or []
    if not isinstance(classes, list):
        raise ValueError(f"classes must be a list of names, got {classes!r}")
    if not isinstance(space.get("name"), str) or not isinstance(space.get("options"), dict):
        raise ValueError("space must hold a name and options")
    if len(shape) != 3 or not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in shape):
        raise ValueError(f"input_shape must be [channels, height, width], each from 1 to {LARGEST_SIZE:,}, got {shape}")
    if not 0 < content["num_classes"] <= LARGEST_CLASSES:
        raise ValueError(f"num_classes must be from 1 to {LARGEST_CLASSES:,}, got {content['num_classes']}")
    space = _absolute(space, path.absolute().parent)
    return StoredArchitecture(
        space=SpaceConfig(name=space["name"], options=space["options"]),
        architecture=content["architecture"],
        input_shape=(shape[0], shape[1], shape[2]),
        num_classes=content["num_classes"],
        key=str(content.get("key", "")),
        classes=tuple(map(str, classes)),
    )


def _absolute(content: Any, folder: Path) -> Any:
    """Returns plain data in which references to Python files have absolute paths."""
    if isinstance(content, dict):
        return {key: _absolute(value, folder) for key, value in content.items()}
    if isinstance(content, list):
        return [_absolute(value, folder) for value in content]
    return absolute(content, {}, folder) if isinstance(content, str) else content
