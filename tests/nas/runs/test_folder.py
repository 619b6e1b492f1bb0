"""The folder of a run and its lock."""

import errno
import fcntl
import os

import pytest

from nas.errors import RunError
from nas.runs.folder import RunFolder, create_run, is_locked, locked


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def no_locks(request, monkeypatch):
    """Makes `flock` fail as on a file system without locks, and returns the text of the error."""
    number = getattr(errno, request.param)

    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    return os.strerror(number)


def test_file_system_without_locks_is_named_with_a_way_on(no_locks, tmp_path, tiny):
    for use in (lambda: locked(RunFolder(tmp_path)).__enter__(), lambda: create_run(tmp_path / "run", tiny())):
        with pytest.raises(RunError) as error:
            use()
        assert f"its file system has no file locks ({no_locks})" in str(error.value)
        assert "use a folder on another file system" in str(error.value)
        assert "another process" not in str(error.value)


def test_no_folder_is_left_where_there_are_no_locks(no_locks, tmp_path, tiny):
    with pytest.raises(RunError):
        create_run(tmp_path / "new" / "run", tiny())
    assert not (tmp_path / "new" / "run").exists()


def test_run_without_locks_is_not_shown_as_running(no_locks, tmp_path):
    (tmp_path / ".lock").touch()
    assert not is_locked(RunFolder(tmp_path))


def test_second_process_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    with locked(run):
        assert is_locked(run)
        with pytest.raises(RunError, match="another process is working on this run"), locked(run):
            pass
    assert not is_locked(run)


def test_looking_for_the_lock_writes_nothing(tmp_path):
    assert not is_locked(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []
