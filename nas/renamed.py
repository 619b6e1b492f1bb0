"""Old names of keys in files and databases of earlier versions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys of the entries of `rungs`, a user attribute of trials.
RUNG_KEYS = {"went_on": "promoted"}


def rename_keys(stored: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Returns stored data with new names for old keys. Each replacement is logged."""
    for key in stored.keys() & table.keys():
        logging.getLogger("hardcell").debug("%r is called %r now", key, table[key])
    return {table.get(key, key): value for key, value in stored.items()}
