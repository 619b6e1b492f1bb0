"""Options of the command line that set keys of the config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from nas.config.schema import Config

# Short options by name: the setting, its type, and the help text.
_SHORT = {
    "trials": ("search.trials", int, "Number of trials"),
    "executor": ("search.executor.name", str, "Where trials run, local or ray"),
    "workers": ("search.executor.workers", int, "Maximum number of parallel trials"),
    "address": ("search.executor.address", str, "Address of a Ray cluster, HOST:PORT or auto"),
}


def setting_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator that adds --set and some of the short options to a command.

    Args:
        names: Names of the short options: trials, executor, workers, address.
    """

    def add(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Override one setting; repeatable. Relative paths start at the working directory.",
        )(command)
        for name in reversed(names):
            key, kind, text = _SHORT[name]
            command = click.option(f"--{name}", type=kind, help=f"{text}; the same as --set {key}=VALUE.")(command)
        return command

    return add


def overrides_of(short: Mapping[str, Any]) -> list[str]:
    """Returns the given short options as overrides."""
    return [f"{_SHORT[name][0]}={value}" for name, value in short.items() if value is not None]


def load_settings(path: Path | None, overrides: list[str]) -> Config:
    """Returns the config of a file, or the default config, with overrides.

    Raises:
        ConfigError: the config has faults; the error lists all of them.
    """
    from nas.config.files import load_config, parse_config

    return load_config(path, overrides) if path else parse_config(None, source="default", overrides=overrides)
