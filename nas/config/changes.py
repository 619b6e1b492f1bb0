"""Changes of a run's config, and which of them a resumed run accepts.

A change is accepted if all trials of the study stay comparable.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nas.config.files import parse_config
from nas.config.writer import as_data
from nas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nas.config.schema import Config

# Reasons why a setting cannot change, by section or dotted key; None accepts the change. The longest matching key applies.
_REASONS: dict[str, str | None] = {
    "seed": "it decides the architectures, weights and attacks of all trials",
    "device": None,
    "threads": None,
    "data": "all trials must use the same images",
    # The paths of the images and of the table may change, because their contents are compared by hash.
    "data.path": None,
    "space": "all trials must come from one search space",
    "evaluator": "all trials must be measured in the same way",
    "evaluator.path": None,
    "training": "all trials must be trained in the same way",
    "evaluation": "all trials must be attacked in the same way",
    "objective": "the stored values and constraints of the trials depend on it",
    "search": "each proposal depends on it and on all earlier proposals",
    "search.trials": None,
    "search.executor": None,
    "search.stopping": "each trial is compared with earlier trials at the same rungs",
    "search.time_limit": None,
    "search.attempts": None,
    "search.checkpoint_seconds": None,
    "search.isolate": None,
    "search.storage": "the study is stored there",
    "finalists": "the run has bundles that were made with the earlier value; move them to another folder",
    "finalists.count": None,
    "finalists.references": None,
}


def changed_settings(stored: Any, config: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ, by dotted key, with the stored and the new value.

    Args:
        stored: The config of the study, as plain data. Keys that an older version did not have take their defaults.
        config: The new config.
    """
    with suppress(ConfigError):  # A custom file may have moved; then the stored data is compared without being parsed.
        stored = as_data(parse_config(stored, build_space=False))
    return dict(_differences(stored, as_data(config), ""))


def _differences(stored: Any, wanted: Any, path: str) -> list[tuple[str, tuple[Any, Any]]]:
    if stored == wanted:
        return []
    nested = isinstance(stored, dict) and isinstance(wanted, dict)
    # Settings of two different parts, such as two samplers, are not compared one by one.
    if not nested or stored.get("name") != wanted.get("name"):
        return [(path, (stored, wanted))]
    return [
        difference
        for key in dict.fromkeys([*stored, *wanted])
        for difference in _differences(stored.get(key), wanted.get(key), f"{path}.{key}".lstrip("."))
    ]


def check_changes(changes: Mapping[str, tuple[Any, Any]], place: str, *, exported: bool) -> None:
    """Checks that a resumed run accepts the changes of its config.

    Args:
        changes: Stored and new value by dotted key, as from `changed_settings`.
        place: Name of the run's config, for the message.
        exported: Whether the run has bundles.

    Raises:
        ConfigError: some settings cannot change; the message lists all of them, with reasons.
    """
    refused = {key: reason for key in changes if (reason := _reason(key, changes[key], exported)) is not None}
    if not refused:
        return
    accepted = [key for key, reason in _REASONS.items() if reason is None]
    raise ConfigError(
        [
            f"{place}: a run that has begun cannot change these settings:",
            *(f"  {key}: {changes[key][0]!r} cannot become {changes[key][1]!r}: {why}" for key, why in refused.items()),
            f"undo these changes, or start a new run; these settings can change: {', '.join(accepted)}",
        ]
    )


def _reason(key: str, values: tuple[Any, Any], exported: bool) -> str | None:
    """Returns the reason why a setting cannot change; None if it can."""
    if key.startswith("finalists.") and not exported:
        return None
    if key == "search.storage" and None not in values:  # The same study, at another address.
        return None
    parts = key.split(".")
    entries = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((_REASONS[entry] for entry in entries if entry in _REASONS), "it may change the results of trials")
