"""Atomic file writes, and reading JSON and YAML that others may have written."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml

# Largest sizes of the JSON and YAML files that are read, in bytes.
LARGEST_JSON, LARGEST_YAML = 2**25, 2**17

if TYPE_CHECKING:
    from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file atomically. A full disk or a kill leaves the earlier file unchanged.

    Args:
        path: The file.
        content: Bytes, or text to be encoded in UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    # Nobody can predict the name of the new file, so nobody can place a link there that the write would follow.
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.partial")
    try:
        partial.touch(exist_ok=False)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file of at most LARGEST_JSON bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a regular file, is too large, is not JSON in UTF-8, is nested too deep, or holds control
            characters.
    """
    text = _read_text(path, LARGEST_JSON)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deep") from error
    _check_text(content)
    return content


def read_plain_yaml(path: Path) -> Any:
    """Returns the content of a YAML file of at most LARGEST_YAML bytes, without aliases.

    With aliases, a small file could expand to huge data.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a regular file, is too large, is not YAML in UTF-8, is nested too deep, or holds aliases,
            tags, duplicate keys or control characters.
    """
    try:
        content = yaml.load(_read_text(path, LARGEST_YAML), _PlainLoader)
        _check_text(content)
    except RecursionError as error:
        raise ValueError("is nested too deep") from error
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from error
    return content


def check_regular(path: Path) -> None:
    """Checks that a path is missing or a regular file. A link could lead anywhere, and a pipe could block forever.

    Raises:
        ValueError: the path is a link, a folder, a pipe or a device.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        kind = "a link" if path.is_symlink() else "not a regular file"
        raise ValueError(f"is {kind}; the folder must hold the file itself")


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML loader that raises an error for tags and for duplicate keys. PyYAML would keep the last of the duplicates."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Returns a node.

        Raises:
            ValueError: the node has a tag. Without this check, PyYAML raises errors of various types for unsuitable tags.
        """
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {event.start_mark.line + 1}: must hold no tag, got {event.tag}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Returns the mapping.

        Raises:
            ValueError: a key is repeated.
        """
        counts = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
        if twice := [key for key, count in counts.items() if count > 1 and key != "<<"]:
            raise ValueError(f"line {node.start_mark.line + 1}: duplicate keys: {', '.join(twice)}")
        return super().construct_mapping(node, deep)


class _PlainLoader(UniqueKeyLoader):
    """YAML loader that also raises an error for aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Returns a node.

        Raises:
            ValueError: the node is an alias.
        """
        if self.check_event(yaml.AliasEvent):
            raise ValueError("must hold no alias (*name)")
        return super().compose_node(parent, index)


def _read_text(path: Path, largest: int) -> str:
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"is larger than {largest:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError("must be text in UTF-8") from error


def _check_text(value: Any) -> None:
    """Checks that no text has control characters, which could change what a terminal shows."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_text(key)
            _check_text(entry)
    elif isinstance(value, list):
        for entry in value:
            _check_text(entry)
    elif isinstance(value, str) and not value.isprintable() and not value.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError(f"holds control characters, {value[:40]!r}")
