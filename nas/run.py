"""A run as it lies on disk, finished or not: what a report, a status or a program of one's own starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from nas.bundle.load import Bundle, DamagedBundle, open_bundles
from nas.config import Config
from nas.finalists import choose_finalists
from nas.run_folder import RunFolder, open_run
from nas.storage import Place, open_storage, release, storage_errors
from nas.study import Trial, load_study, read_trials


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


def place_of(folder: RunFolder, config: Config) -> Place:
    """Returns where the study of a run lies: in a database that runs share, it has the name of the run's folder."""
    url = config.search.storage
    return Place(folder.study) if url is None else Place(folder.study, url, folder.path.name)


def read_run(path: Path | str) -> Run:
    """Returns what a run's folder holds, finished or not.

    Raises:
        HardcellError: there is no run in the folder, or its config or study is damaged.
    """
    folder, config = open_run(Path(path), check_space=False)
    trials: list[Trial] = []
    place = place_of(folder, config)
    if place.url is not None or place.path.exists():
        storage = open_storage(place)
        with storage_errors(place):
            trials = read_trials(load_study(storage, place))
        release(storage)
    # A bundle exported while the search was under way may have lost its rank since.
    current = {candidate.name for candidate in choose_finalists(trials, config, len(trials))}
    bundles, damaged = open_bundles(folder.bundles)
    bundles = [bundle for bundle in bundles if bundle.role != "finalist" or bundle.name in current]
    return Run(folder, config, tuple(trials), tuple(bundles), tuple(damaged))
