"""A run as it lies on disk, finished or not: what a report, a status or a program of one's own starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from nas.bundle.load import Bundle, DamagedBundle, open_bundles
from nas.config.schema import Config
from nas.errors import RunError
from nas.runs.folder import RunFolder, open_run
from nas.study.finalists import choose_finalists
from nas.study.storage import StudyLocation, open_storage, release, storage_errors
from nas.study.study import SESSION, load_study
from nas.study.trial import Trial, read_trials


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
        session: When the last process began that worked on its trials, in seconds since 1970.
    """

    folder: RunFolder
    config: Config
    trials: tuple[Trial, ...]
    bundles: tuple[Bundle, ...]
    damaged: tuple[DamagedBundle, ...] = ()
    session: float | None = None


def study_location(folder: RunFolder, config: Config) -> StudyLocation:
    """Returns where the study of a run lies.

    Raises:
        RunError: it is in a database that runs share, and the file that has its name there is gone.
    """
    url = config.search.storage
    if url is None:
        return StudyLocation(folder.study)
    try:
        return StudyLocation(folder.study, url, folder.study_name.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise RunError(
            f"{folder.study_name}: {error.strerror}; it holds the name of the run's study in the database"
        ) from error


def read_run(path: Path | str) -> Run:
    """Returns what a run's folder holds, finished or not.

    Raises:
        HardcellError: there is no run in the folder, or its config or study is damaged.
    """
    folder, config = open_run(Path(path), build_space=False)
    trials: list[Trial] = []
    session = None
    location = study_location(folder, config)
    if location.url is not None or location.path.exists():
        storage = open_storage(location)
        try:
            with storage_errors(location):
                study = load_study(storage, location)
                trials, session = read_trials(study), study.user_attrs.get(SESSION)
        finally:
            release(storage)
    # A bundle exported while the search was under way may have lost its rank since.
    current = {candidate.name for candidate in choose_finalists(trials, config, len(trials))}
    bundles, damaged = open_bundles(folder.bundles)
    bundles = [bundle for bundle in bundles if bundle.role != "finalist" or bundle.name in current]
    return Run(folder, config, tuple(trials), tuple(bundles), tuple(damaged), session)
