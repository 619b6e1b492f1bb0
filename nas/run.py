"""A run as it lies on disk, finished or not: what a report, a status or a program of one's own starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from nas.bundle.load import Bundle, DamagedBundle, open_bundles
from nas.config import Config
from nas.finalists import choose_finalists
from nas.run_folder import RunFolder, open_run
from nas.study import Trial, open_storage, open_study, read_trials, storage_errors


@final
@dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        folder: Its folder.
        config: Its config.
        trials: What the study holds, by number.
        bundles: Its bundles: the finalists, best first, then the references.
        damaged: Those of its bundles that cannot be read.
    """

    folder: RunFolder
    config: Config
    trials: tuple[Trial, ...]
    bundles: tuple[Bundle, ...]
    damaged: tuple[DamagedBundle, ...] = ()


def read_run(path: Path | str) -> Run:
    """Returns what a run's folder holds, finished or not.

    Raises:
        HardcellError: there is no run in the folder, or its config or study is damaged.
    """
    folder, config = open_run(Path(path), check_space=False)
    trials: list[Trial] = []
    if folder.study.exists():
        with storage_errors(folder.study):
            trials = read_trials(open_study(open_storage(folder.study), folder.study))
    # A bundle exported while the search was under way may have lost its rank since.
    current = {candidate.name for candidate in choose_finalists(trials, config, len(trials))}
    bundles, damaged = open_bundles(folder.bundles)
    bundles = [bundle for bundle in bundles if bundle.role != "finalist" or bundle.name in current]
    return Run(folder, config, tuple(trials), tuple(bundles), tuple(damaged))
