"""Old names of keys in files and databases of earlier versions."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Old and new keys of the entries of `rungs`, a user attribute of Optuna's trials. A rung is an epoch at which early stopping
# compares trials.
RUNG_KEYS = {"went_on": "promoted"}

# Other keys keep their old names in files, so that the files of all versions are alike. Old names, and new ones in the code:
#   parting_epsilon in profile.json: first_order_breakdown
#   leads in surface.json: endpoints
#   reach in compare.json: universal_transfer
#   Optuna's state PRUNED of a trial that early stopping has not pruned (Hardcell called it rejected): infeasible


def rename_keys(stored: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Returns stored data with new names for old keys. The first replacement of each key is logged."""
    for key in stored.keys() & table.keys():
        _report(key, table[key])
    return {table.get(key, key): value for key, value in stored.items()}


@functools.cache
def _report(old: str, new: str) -> None:
    logging.getLogger("hardcell").info("key %r of an earlier version is read as %r", old, new)
