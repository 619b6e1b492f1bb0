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

# Settings that may change while a table is made. Device and threads change numbers only by rounding. `data.path` may
# change, because the images are compared by hash.
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
    folder = TableFolder(path)
    return folder.plan.exists() or folder.measurements.exists()


def open_folder(path: Path, config: Config, plan: TablePlan) -> TableFolder:
    """Returns the folder of a new or continued table, with its plan written.

    Raises:
        RunError: the folder holds other files, its file system has no locks, or the table began with other settings.
    """
    folder = TableFolder(path.expanduser().resolve())
    if is_table(folder.path) and folder.run.config.exists():
        began = load_config(folder.run.config, build_space=False)
        changes = [key for key in changed_settings(as_data(began), config) if not _is_free(key)]
        if changes:
            raise RunError(
                f"{path}: the table began with other settings ({', '.join(changes)}), and all of its rows must share them; "
                "undo the changes, or choose another folder"
            )
    elif folder.measurements.exists():
        raise RunError(f"{folder.run.config}: missing, so the settings of the rows are unknown; restore it")
    elif not is_table(folder.path) and not _is_unused(folder.path):
        raise RunError(f"{path}: must be a new or empty folder, or that of a table")
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.run):
        # The plan comes first, because it marks the folder as that of a table.
        write_atomic(folder.plan, json.dumps(asdict(plan)) + "\n")
        write_config(folder.run, config)
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


def _is_unused(path: Path) -> bool:
    """Returns whether a folder is missing, empty, or holds only a lock."""
    return not path.exists() or (path.is_dir() and all(file.name == ".lock" for file in path.iterdir()))


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)
