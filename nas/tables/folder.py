"""Folder of a table: its files, and the check that a continued table has the settings with which it began."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from nas.config.changes import changed_settings
from nas.config.files import load_config
from nas.config.writer import as_data
from nas.errors import RunError
from nas.files import read_json, write_atomic
from nas.runs.folder import RunFolder, locked, write_config
from nas.tables.plan import TablePlan

if TYPE_CHECKING:
    from nas.config.schema import Config

# Settings that cannot change the numbers of a table. `data.path` may change, because the images are compared by hash.
_FREE = (
    "device",
    "threads",
    "data.path",
    "objective",
    "search",
    "finalists",
)


@final
@dataclass(frozen=True)
class TableFolder:
    """Paths of the files of one table.

    Attributes:
        path: Absolute path of the folder.
    """

    path: Path

    @property
    def run(self) -> RunFolder:
        """The folder as that of a run, for its config, its environment and its lock."""
        return RunFolder(self.path)

    @property
    def plan(self) -> Path:
        """Path of the numbers of architectures and seeds."""
        return self.run.table_plan

    @property
    def measurements(self) -> Path:
        """Path of the measurements, one line each."""
        return self.path / "measurements.jsonl"

    @property
    def table(self) -> Path:
        """Path of the table."""
        return self.path / "table.csv.gz"

    @property
    def card(self) -> Path:
        """Path of the data card."""
        return self.path / "card.md"


def is_table(path: Path) -> bool:
    """Returns whether a folder is that of a table."""
    return TableFolder(path).plan.exists()


def open_folder(path: Path, config: Config, plan: TablePlan) -> TableFolder:
    """Returns the folder of a new or continued table, with its plan written.

    Raises:
        RunError: the folder holds other files, its file system has no locks, or the table began with other settings.
    """
    folder = TableFolder(path.expanduser().resolve())
    if is_table(folder.path):
        began = load_config(folder.run.config, build_space=False)
        changes = [key for key in changed_settings(as_data(began), config) if not _is_free(key)]
        if changes:
            raise RunError(
                f"{path}: the table began with other settings ({', '.join(changes)}), and all of its rows must share them; "
                "undo the changes, or choose another folder"
            )
    elif folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise RunError(f"{path}: must be a new or empty folder, or that of a table")
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.run):
        write_config(folder.run, config)
        write_atomic(folder.plan, json.dumps(asdict(plan)) + "\n")
    return folder


def read_plan(folder: TableFolder) -> TablePlan:
    """Returns the plan of a table.

    Raises:
        RunError: the plan is damaged.
    """
    try:
        return TablePlan(**read_json(folder.plan))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{folder.plan}: damaged ({error}); give the command `hardcell tabulate` again") from error


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)
