"""Reads a run from disk, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from nas.bundle.load import Bundle, DamagedBundle, open_bundles
from nas.config.files import load_config, load_untrusted_config
from nas.config.schema import Config
from nas.errors import RunError
from nas.runs.folder import RunFolder, find_run
from nas.study.finalists import choose_finalists
from nas.study.lease import is_leased
from nas.study.storage import StudyLocation
from nas.study.study import SESSION, open_study
from nas.study.trial import Trial, read_trials


@final
@dataclass(frozen=True)
class Run:
    """Content of a run on disk.

    Attributes:
        folder: Paths of the run's files.
        config: Config of the run.
        trials: Trials of the study, by number.
        bundles: Readable bundles: finalists of the current ranking, best first, then references.
        damaged: Bundles that cannot be read.
        session: Start of the last process that ran trials, in seconds since 1970; None if there was none.
        leased: Whether a process runs trials of the study in a shared database, on this machine or another one.
        refused: Messages about settings that refer to code or a database and are ignored because the run is not trusted.
    """

    folder: RunFolder
    config: Config
    trials: tuple[Trial, ...]
    bundles: tuple[Bundle, ...]
    damaged: tuple[DamagedBundle, ...] = ()
    session: float | None = None
    leased: bool = False
    refused: tuple[str, ...] = ()


UNOPENED = "names a database, which is not opened; if you trust it, use --trust (trust=True)"


def study_location(folder: RunFolder, config: Config) -> StudyLocation:
    """Returns the location of a run's study.

    Raises:
        RunError: the study is in a shared database, and the file with the study's name cannot be read.
    """
    url = config.search.storage
    if url is None:
        return StudyLocation(folder.study)
    try:
        return StudyLocation(folder.study, url, folder.study_name.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise RunError(
            f"{folder.study_name}: {error.strerror}; this file holds the name of the run's study in the database"
        ) from error


def read_run(path: Path | str, *, trust: bool = False) -> Run:
    """Returns the content of a run's folder, finished or not. The search space is not built.

    Args:
        path: Folder of the run.
        trust: Import the code that the config refers to, and open its database. If false, the result for a run with a
            database has neither trials nor bundles.

    Raises:
        HardcellError: the folder holds no run, or its config or study is damaged.

    Example:
        >>> import nas
        >>> run = nas.read_run("runs/digits")
        >>> [bundle.role for bundle in run.bundles]
        ['finalist', 'random', 'residual']
    """
    folder = find_run(Path(path))
    config, refused = (load_config(folder.config, build_space=False), ()) if trust else load_untrusted_config(folder.config)
    trials: list[Trial] = []
    session, leased = None, False
    location = study_location(folder, config)
    if location.url is not None and not trust:
        # Opening a database may connect to a server, and send it the values of environment variables that the URL names.
        return Run(folder, config, (), (), refused=(*refused, f"search.storage {UNOPENED}"))
    with open_study(location) as study:
        if study is not None:
            trials, session = read_trials(study), study.user_attrs.get(SESSION)
            leased = location.url is not None and is_leased(study)
        elif location.url is not None or location.path.exists():
            raise RunError(f"{location}: holds no study of Hardcell")
    # A bundle exported during the search may have a rank that is no longer current. Such a bundle is left out.
    current = {candidate.name for candidate in choose_finalists(trials, config, len(trials))}
    bundles, damaged = open_bundles(folder.bundles)
    bundles = [bundle for bundle in bundles if bundle.role != "finalist" or bundle.name in current]
    return Run(folder, config, tuple(trials), tuple(bundles), tuple(damaged), session, leased, refused)
