"""Lease of a study in a shared database: only the process that holds the lease, on any machine, may run the study's trials.

A user attribute of the study names the holder of the lease. A thread of the holder renews the lease every few seconds.
Without renewal the lease expires, for example if the process has died.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, final

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from nas.errors import RunError

if TYPE_CHECKING:
    import optuna

    from nas.study.storage import StudyLocation

# Attribute of a study: owner (a random id), host and pid of the process that runs the study's trials, and time of the last
# renewal (in seconds since 1970).
DRIVER = "driver"
RENEW_SECONDS, EXPIRE_SECONDS = 5.0, 60.0
# Seconds after which a process that took the lease looks whether another one took it at the same time.
SETTLE_SECONDS = 0.5
# Owners of the leases that this process holds.
_HELD: set[str] = set()


@final
class Lease:
    """Context manager that holds the lease of a study.

    Raises:
        RunError: another process holds the lease.
    """

    def __init__(self, study: optuna.Study, location: StudyLocation) -> None:
        self._study, self._location = study, location
        self._owner, self._ended = uuid.uuid4().hex, threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self.check()
        self._write()
        time.sleep(SETTLE_SECONDS)
        self.check()
        _HELD.add(self._owner)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        _HELD.discard(self._owner)
        with suppress(SQLAlchemyError, StorageInternalError):  # After an error, the lease expires by itself.
            if self._holder().get("owner") == self._owner:
                self._study.set_user_attr(DRIVER, {})

    def check(self) -> None:
        """Checks that no other process holds the lease.

        Raises:
            RunError: another process holds the lease.
        """
        holder = self._holder()
        if not holder or holder["owner"] == self._owner or _has_ended(holder):
            return
        age = max(0.0, time.time() - holder["time"])
        raise RunError(
            f"{self._location}: a process on host {holder['host']} (process {holder['pid']}) is working on this study; it "
            f"last reported {age:.0f} s ago; one process at a time can run its trials. End that process; if it has "
            f"died, run `hardcell resume` in {max(0.0, EXPIRE_SECONDS - age):.0f} s"
        )

    def _holder(self) -> dict[str, Any]:
        return _holder_of(self._study)

    def _write(self) -> None:
        holder = {"owner": self._owner, "host": platform.node(), "pid": os.getpid(), "time": time.time()}
        self._study.set_user_attr(DRIVER, holder)

    def _renew(self) -> None:
        """Renews the lease until the `with` block ends or another process has taken the lease."""
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(SQLAlchemyError, StorageInternalError):  # The database may answer again at the next renewal.
                if self._holder().get("owner") != self._owner:
                    return
                self._write()


def is_leased(study: optuna.Study) -> bool:
    """Returns whether a process runs the trials of a study in a shared database, on this machine or another one."""
    holder = _holder_of(study)
    return bool(holder) and not _has_ended(holder)


def _holder_of(study: optuna.Study) -> dict[str, Any]:
    return study.user_attrs.get(DRIVER) or {}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Returns whether a lease has expired, or its holder was a process of this machine that has ended or released it."""
    if time.time() - holder["time"] > EXPIRE_SECONDS:
        return True
    if holder["host"] != platform.node():
        return False
    if holder["pid"] == os.getpid():  # If the database did not answer at the release, it still holds the released lease.
        return holder["owner"] not in _HELD
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
