"""Storage of a study: backup, damaged files and shared databases."""

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import nas
from nas.errors import ConfigError, RunError
from nas.pipeline.earlier_run import resolve_earlier_runs
from nas.pipeline.events import TrialFinished
from nas.pipeline.search import _regular_backup, resume_events, search_events
from nas.runs.folder import RunFolder
from nas.runs.run import read_run, study_location
from nas.study.storage import StudyLocation, backup, close_storage, open_storage


@pytest.fixture
def config(custom_space):
    return custom_space("works,other", "search.trials=4", "search.random_trials=3", "training.epochs=1", "data.limit=200")


def begin(config, run, trials):
    """Starts a run, or resumes it if the config is None, and interrupts it after some trials, as Ctrl-C does."""
    events = search_events(config, run) if config else resume_events(run)
    for event in events:
        if isinstance(event, TrialFinished) and event.trial.number == trials - 1:
            events.close()
            return
    raise AssertionError(f"there are no {trials} trials")


def begin_killed(config, run, trials, folder):
    """Copies a run after some trials, as a kill would leave its files: the write-ahead log is not merged."""
    events = search_events(config, run)
    for event in events:
        if isinstance(event, TrialFinished) and event.trial.number == trials - 1:
            break
    shutil.copytree(run, folder)
    events.close()
    assert (folder / "study.db-wal").stat().st_size > 0
    return folder


def count(path):
    """Returns the number of finished trials in a file, and SQLite's report on the file: "ok" if it is intact."""
    with closing(sqlite3.connect(path)) as database:
        whole = database.execute("PRAGMA integrity_check").fetchone()[0]
        (ended,) = database.execute("SELECT count(*) FROM trials WHERE state != 'RUNNING'").fetchone()
        return ended, whole


def damage(path):
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * 4000 + content[4100:])


def journal(path):
    """Returns two bytes of the header of a SQLite file: 1 and 1 for a rollback journal, 2 and 2 for write-ahead logging."""
    return path.read_bytes()[18:20]


class TestBackup:
    def test_is_made_at_every_resume(self, config, tmp_path, monkeypatch):
        run = tmp_path / "run"
        begin(config, run, 2)
        monkeypatch.setattr("nas.pipeline.search._regular_backup", lambda place: lambda: None)
        begin(None, run, 3)
        assert count(run / "study.db.backup") == (2, "ok")
        assert not list(run.glob(".*.partial"))

    def test_is_made_after_the_first_trial_of_a_session_and_then_regularly(self, config, tmp_path, monkeypatch):
        run = tmp_path / "run"
        begin(config, run, 3)
        assert count(run / "study.db.backup") == (1, "ok")
        clock = [0.0]
        monkeypatch.setattr("nas.pipeline.search.time.monotonic", lambda: clock[0])
        place, counts = StudyLocation(run / "study.db"), []
        write = _regular_backup(place)
        for clock[0] in (0.0, 59.0, 61.0):
            place.backup.unlink(missing_ok=True)
            write()
            counts.append(place.backup.exists())
        assert counts == [True, False, True]
        assert not list(run.glob(".*.partial"))

    def test_is_whole_after_a_kill(self, config, tmp_path):
        run = begin_killed(config, tmp_path / "whole", 3, tmp_path / "run")
        place = StudyLocation(run / "study.db")
        backup(place)
        assert count(place.backup) == (3, "ok")

    def test_none_is_made_of_a_database_elsewhere_or_of_none(self, tmp_path):
        for place in (StudyLocation(tmp_path / "study.db"), StudyLocation(tmp_path / "study.db", "sqlite:///elsewhere.db")):
            backup(place)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("content", [b"", b"not a database at all" * 300, None], ids=["empty", "text", "overwritten"])
    def test_damaged_file_never_overwrites_it(self, content, config, tmp_path):
        run = tmp_path / "run"
        begin(config, run, 2)
        begin(None, run, 3)
        before = (run / "study.db.backup").read_bytes()
        if content is None:
            damage(run / "study.db")
        else:
            (run / "study.db").write_bytes(content)
        for _ in range(2):
            with pytest.raises(RunError, match=r"study\.db: .* damaged.*`rm -f .*; cp "):
                list(resume_events(run))
        assert (run / "study.db.backup").read_bytes() == before
        assert not list(run.glob(".*.partial"))

    def test_damage_in_the_middle_is_found_before_it_is_copied(self, config, tmp_path):
        run = tmp_path / "run"
        begin(config, run, 2)
        begin(None, run, 3)
        before = (run / "study.db.backup").read_bytes()
        content = bytearray((run / "study.db").read_bytes())
        content[len(content) // 2 : len(content) // 2 + 9000] = b"\xff" * 9000
        (run / "study.db").write_bytes(content)
        with pytest.raises(RunError, match=r"malformed.* damaged"):
            backup(StudyLocation(run / "study.db"))
        assert (run / "study.db.backup").read_bytes() == before

    def test_message_names_it_and_following_it_mends_the_run(self, config, tmp_path, study_content, trials_only, cli):
        trials_only(tmp_path / "uninterrupted", config)
        run = tmp_path / "run"
        begin(config, run, 2)
        begin(None, run, 3)
        # The write-ahead log of the damaged file must not be merged into the backup.
        events = resume_events(run)
        next(event for event in events if isinstance(event, TrialFinished))
        for path in run.glob("study.db*"):
            shutil.copy(path, tmp_path / f"{path.name}.killed")
        events.close()
        for path in tmp_path.glob("*.killed"):
            shutil.copy(path, run / path.stem)
        assert (run / "study.db-wal").exists()
        trials = count(run / "study.db.backup")[0]
        damage(run / "study.db")
        for command in ("resume", "status", "report"):
            code, _, err = cli(command, run)
            assert code == 2
            (remedy,) = re.findall(r"damaged.*`(.*)`.* (\d+) trials", err)
            assert f"{run / 'study.db'}: " in err
        # The number in the remedy may include a trial that was running.
        assert trials <= int(remedy[1]) <= trials + 1
        subprocess.run(remedy[0], shell=True, check=True)
        trials_only(run)
        assert study_content(run) == study_content(tmp_path / "uninterrupted")

    @pytest.mark.parametrize("name", ["what? 50% #1", "{x}"])
    def test_any_name_of_a_folder_will_do(self, name, config, tmp_path):
        run = tmp_path / name
        begin(config, run, 1)
        begin(None, run, 2)
        damage(run / "study.db")
        with pytest.raises(RunError, match=r"damaged.*`rm -f .*; cp .*`.* \d trials"):
            read_run(run)

    def test_where_there_is_none_the_message_says_so(self, config, tmp_path):
        run = tmp_path / "run"
        begin(config, run, 1)
        (run / "study.db.backup").unlink()
        damage(run / "study.db")
        for look in (read_run, resume_events):
            with pytest.raises(
                RunError,
                match=r"study\.db: .* damaged.* no backup",
            ):
                list(look(run)) if look is resume_events else look(run)


class TestOneFile:
    def test_writes_ahead_while_it_runs_and_is_one_file_afterwards(self, config, tmp_path, trials_only):
        run = tmp_path / "run"
        events = search_events(config, run)
        next(event for event in events if isinstance(event, TrialFinished))
        assert journal(run / "study.db") == b"\2\2"
        events.close()
        assert journal(run / "study.db") == b"\1\1"
        assert sorted(path.name for path in run.glob("study.db*")) == ["study.db", "study.db.backup"]

    def test_status_and_report_leave_it_unchanged(self, config, tmp_path, trials_only, cli):
        run = tmp_path / "run"
        trials_only(run, config)
        before = (run / "study.db").read_bytes()
        assert [cli(command, run)[0] for command in ("status", "report")] == [0, 0]
        assert sorted(path.name for path in run.glob("study.db*")) == ["study.db", "study.db.backup"]
        assert (run / "study.db").read_bytes() == before

    def test_reads_in_a_folder_that_cannot_be_written(self, config, tmp_path, trials_only):
        run = tmp_path / "run"
        trials_only(run, config)
        with closing(sqlite3.connect(f"file:{run / 'study.db'}?mode=ro&immutable=0", uri=True)) as database:
            assert database.execute("SELECT count(*) FROM trials").fetchone() == (4,)
        if os.geteuid() == 0:
            return  # Permissions do not apply to root.
        run.chmod(0o500)
        try:
            with closing(sqlite3.connect(run / "study.db")) as database:
                assert database.execute("SELECT count(*) FROM trials").fetchone() == (4,)
        finally:
            run.chmod(0o700)


class TestElsewhere:
    def test_search_resume_status_and_report_work_from_there(
        self, config, tmp_path, study_content, stored, trials_only, cli, monkeypatch
    ):
        database = tmp_path / "databases" / "all.db"
        database.parent.mkdir()
        monkeypatch.setenv("STUDIES", str(database.parent))
        elsewhere = replace(config, search=replace(config.search, storage="sqlite:///$STUDIES/all.db"))
        run = tmp_path / "run"
        begin(elsewhere, run, 2)
        assert not (run / "study.db").exists()
        # Without trust, the database in the config of a folder must not be opened.
        code, _, err = cli("status", run)
        assert code == 2
        assert re.search(r"search\.storage names a database, .*--trust", err)
        assert read_run(run).trials == ()
        with pytest.raises(ConfigError, match=r"search\.first\[0\] .*in a database, which is not opened"):
            resolve_earlier_runs(replace(elsewhere, search=replace(elsewhere.search, first=(run,))))
        code, out, _ = cli("status", run, "--trust")
        assert code == 0
        assert "2 of 4 trials: 2 complete" in out
        begin(None, run, 3)
        trials_only(run)
        trials = read_run(run, trust=True).trials
        assert [trial.state for trial in trials] == ["complete"] * 4
        assert cli("report", run, "--trust")[0] == 0
        assert (run / "report.html").exists()
        assert not list(run.glob("study.db*"))
        # The trials equal those of a run with its own file.
        trials_only(tmp_path / "own-file", config)
        assert [(t.key, t.metrics) for t in trials] == [(t.key, t.metrics) for t in read_run(tmp_path / "own-file").trials]

    def test_runs_share_a_database_each_under_a_name_of_its_own(self, config, tmp_path, trials_only):
        url = f"sqlite:///{tmp_path / 'all.db'}"
        # Two of the folders have the same name.
        seeds = {"a/run": 0, "b/run": 1, "other": 2}
        for name, seed in seeds.items():
            settings = replace(config, seed=seed, search=replace(config.search, storage=url, trials=3))
            begin(settings, tmp_path / name, 1)
        for name in seeds:
            trials_only(tmp_path / name)
        trials_by_run = {name: read_run(tmp_path / name, trust=True).trials for name in seeds}
        assert [len(trials) for trials in trials_by_run.values()] == [3, 3, 3]
        assert [t.metrics for t in trials_by_run["a/run"]] != [t.metrics for t in trials_by_run["b/run"]]
        with closing(sqlite3.connect(tmp_path / "all.db")) as database:
            names = sorted(name.rpartition("-")[0] for (name,) in database.execute("SELECT study_name FROM studies"))
        assert names == ["other", "run", "run"]

    def test_renamed_folder_keeps_its_study(self, config, tmp_path, trials_only):
        url = f"sqlite:///{tmp_path / 'all.db'}"
        begin(replace(config, search=replace(config.search, storage=url, trials=3)), tmp_path / "run", 1)
        first = read_run(tmp_path / "run", trust=True).trials[0]
        (tmp_path / "run").rename(tmp_path / "renamed")
        trials_only(tmp_path / "renamed")
        trials = read_run(tmp_path / "renamed", trust=True).trials
        assert (trials[0].key, trials[0].ended, len(trials)) == (first.key, first.ended, 3)

    def test_study_that_is_gone_is_not_begun_anew(self, config, tmp_path):
        url = f"sqlite:///{tmp_path / 'all.db'}"
        begin(replace(config, search=replace(config.search, storage=url)), tmp_path / "run", 1)
        (tmp_path / "all.db").unlink()
        with pytest.raises(RunError, match=r"^study run-\w+ in sqlite:////.*all\.db: .* study of the run is missing"):
            begin(None, tmp_path / "run", 2)
        own = tmp_path / "own"
        begin(config, own, 1)
        (own / "study.db").unlink()
        (own / "study.db.backup").unlink()
        with pytest.raises(RunError, match=r"study\.db: .* study of the run is missing"):
            begin(None, own, 2)

    def test_file_with_the_name_of_the_study_is_gone(self, config, tmp_path):
        url = f"sqlite:///{tmp_path / 'all.db'}"
        begin(replace(config, search=replace(config.search, storage=url)), tmp_path / "run", 1)
        (tmp_path / "run" / ".study").unlink()
        with pytest.raises(RunError, match=r"\.study: No such file or directory; .* name of .* study"):
            read_run(tmp_path / "run", trust=True)

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("postgres", r"must be a URL such as postgresql\+psycopg2://USER:\$PASSWORD@HOST/NAME, got 'postgres'$"),
            (
                "postgresql://me:secret@host/db",
                r"must hold no password.* \$NAME",
            ),
            ("sqlite:///studies.db", r"must be the absolute path of a file, .* got 'sqlite:///studies.db'$"),
            ("sqlite://", "must be the absolute path of a file"),
        ],
    )
    def test_urls_that_will_not_do_are_faults_of_the_config(self, tiny, url, message):
        with pytest.raises(ConfigError, match=f"search.storage {message}") as error:
            tiny(f"search.storage='{url}'")
        assert "secret" not in str(error.value)

    def test_database_that_cannot_be_opened_leaves_no_folder(self, config, tmp_path):
        url = f"sqlite:///{tmp_path / 'gone' / 'all.db'}"
        with pytest.raises(RunError, match=r"^search\.storage: sqlite:////.*gone/all\.db: .*unable to open database file"):
            search_events(replace(config, search=replace(config.search, storage=url)), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_missing_file_is_reported_with_its_backup(self, config, tmp_path):
        run = tmp_path / "run"
        begin(config, run, 1)
        begin(None, run, 2)
        (run / "study.db").unlink()
        with pytest.raises(RunError, match=r"study\.db: is missing; `cp .*study\.db\.backup .*study\.db` restores the"):
            begin(None, run, 3)

    def test_database_without_the_study_is_reported(self, config, tmp_path):
        url = f"sqlite:///{tmp_path / 'all.db'}"
        begin(replace(config, search=replace(config.search, storage=url)), tmp_path / "run", 1)
        (tmp_path / "run" / ".study").write_text("another")
        with pytest.raises(RunError, match=r"^study another in sqlite:////.*all\.db: holds no study of Hardcell$"):
            read_run(tmp_path / "run", trust=True)

    def test_place_is_named_by_a_file_of_the_folder(self, config, tmp_path):
        folder = RunFolder(tmp_path)
        assert study_location(folder, config) == StudyLocation(tmp_path / "study.db")
        folder.study_name.write_text("mine-01234567\n")
        shared = replace(config, search=replace(config.search, storage="sqlite:////x.db"))
        assert study_location(folder, shared) == StudyLocation(tmp_path / "study.db", "sqlite:////x.db", "mine-01234567")


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "shown", "message"),
        [
            ("nosuch://me:$PASSWORD@host/db", "nosuch://me:***@host/db", "Can't load plugin: sqlalchemy.dialects:nosuch"),
            ("sqlite+nosuch:///db", "sqlite+nosuch:///db", "Can't load plugin: sqlalchemy.dialects:sqlite.nosuch"),
            ("oracle+oracledb://me:hidden@host/db", "oracle+oracledb://me:***@host/db", "Failed to import DB access module"),
            ("postgresql//me:hidden@host/db", "postgresql//me:***@host/db", "Could not parse SQLAlchemy URL"),
            ("study.db", "study.db", "Could not parse SQLAlchemy URL"),
            ("$NOWHERE", "$NOWHERE", "Could not parse SQLAlchemy URL"),
            ("postgresql://me:hidden@host:port/db", "postgresql:***@host:port/db", "is not a URL"),
            ("nosuch://me:hid@den@host/db", "nosuch://me:***@host/db", "Can't load plugin"),
            ("nosuch://me:hid@den:hidden@host/db", "nosuch:***@host/db", "is not a URL"),
        ],
    )
    def test_unusable_url_is_reported_without_its_password(self, url, shown, message, tmp_path, monkeypatch):
        monkeypatch.setenv("PASSWORD", "hidden@word:/{}%")
        with pytest.raises(RunError) as caught:
            open_storage(StudyLocation(tmp_path / "study.db", url, "mine"))
        text = str(caught.value)
        assert text.startswith(f"study mine in {shown}: {message}")
        assert "search.storage must be a URL" in text
        assert "pip install psycopg2-binary" in text
        assert not any(part in text for part in ("hidden", "hid@", "den@", "word"))

    @pytest.mark.parametrize("written", ["$PASSWORD", "${PASSWORD}"])
    def test_password_in_a_variable_may_have_any_characters(self, written, monkeypatch):
        from sqlalchemy import make_url

        from nas.config.storage_url import expand_variables

        password = "p@ss:/?#[]{}%41 word"
        monkeypatch.setenv("PASSWORD", password)
        monkeypatch.setenv("HOST", "db.example.org:5433")
        url = make_url(expand_variables(f"postgresql+psycopg2://me:{written}@$HOST/studies"))
        assert (url.username, url.password, url.host, url.port) == ("me", password, "db.example.org", 5433)
        place = StudyLocation(Path("study.db"), f"postgresql+psycopg2://me:{written}@$HOST/studies", "mine")
        assert str(place) == "study mine in postgresql+psycopg2://me:***@db.example.org:5433/studies"

    def test_whole_url_may_be_in_a_variable(self, tmp_path, monkeypatch):
        monkeypatch.setenv("URL", f"sqlite:///{tmp_path / 'all.db'}")
        close_storage(open_storage(StudyLocation(tmp_path / "study.db", "$URL", "mine")))
        assert (tmp_path / "all.db").exists()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def postgres():
    """Yields the port of a PostgreSQL server and a function that starts or stops it. The password has special characters."""
    pytest.importorskip("psycopg2", reason="needs psycopg2, the driver")
    programs = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    binaries = programs[-1] if programs else Path(shutil.which("initdb") or "").parent
    if not (binaries / "postgres").exists():
        pytest.skip("needs initdb and postgres")
    root = os.geteuid() == 0
    if root and subprocess.run(["su", "postgres", "-c", "true"], capture_output=True, check=False).returncode:
        pytest.skip("postgres refuses to run as root, and there is no user postgres")
    # Other users may not enter pytest's folders, so the database is in another folder.
    holder = tempfile.TemporaryDirectory(prefix="hardcell-postgres-")
    folder = Path(holder.name)
    if root:
        shutil.chown(folder, "postgres")
    (folder / "password").write_text("p@ss:w/o%rd\n")
    (folder / "password").chmod(0o644)
    port = free_port()

    def run(command):
        command = f"cd {folder} && {binaries}/{command}"
        subprocess.run(
            ["su", "postgres", "-c", command] if root else command, shell=not root, check=True, capture_output=True
        )

    def control(what):
        # The output goes to a file, because the server would keep an inherited pipe open.
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run(f"pg_ctl -D data -w -m immediate -l log -o '{options}' {what} > control 2>&1")

    run("initdb -D data -U me -A scram-sha-256 --pwfile password")
    control("start")
    try:
        yield port, control
    finally:
        control("stop")
        holder.cleanup()


@pytest.mark.slow
def test_postgresql(postgres, config, tmp_path, monkeypatch, trials_only, cli):
    port, control = postgres
    monkeypatch.setenv("PASSWORD", "p@ss:w/o%rd")
    url = f"postgresql+psycopg2://me:$PASSWORD@127.0.0.1:{port}/postgres"
    shared = replace(config, search=replace(config.search, storage=url))
    for name in ("first", "second"):
        begin(shared, tmp_path / name, 2)
    trials_only(tmp_path / "own-file", config)
    wanted = [(t.key, t.metrics) for t in read_run(tmp_path / "own-file").trials]
    for name in ("first", "second"):
        trials_only(tmp_path / name)
        assert [(t.key, t.metrics) for t in read_run(tmp_path / name, trust=True).trials] == wanted
        assert cli("report", tmp_path / name, "--trust")[0] == 0
    # A lost server is reported without the password. The run resumes when the server is back.
    run = tmp_path / "third"
    events = search_events(shared, run)
    next(event for event in events if isinstance(event, TrialFinished))
    control("stop")
    with pytest.raises(
        RunError, match=r"^study third-\w+ in postgresql\+psycopg2://me:\*\*\*@127\.0\.0\.1:.*`hardcell resume`"
    ):
        list(events)
    code, _, err = cli("status", run, "--trust")
    assert code == 2
    assert "p@ss" not in err
    control("start")
    time.sleep(0.5)
    trials_only(run)
    assert [(t.key, t.metrics) for t in read_run(run, trust=True).trials] == wanted
    monkeypatch.setenv("PASSWORD", "wrong")
    with pytest.raises(RunError, match="password authentication failed") as caught:
        nas.read_run(run, trust=True)
    assert "wrong" not in str(caught.value)


# A view with this body takes the place of the renamed table `studies`. Reading it never ends.
ENDLESS = (
    "WITH RECURSIVE n(study_id) AS (SELECT 1 UNION ALL SELECT study_id + 1 FROM n) SELECT study_id, '' AS study_name FROM n"
)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (f"ALTER TABLE studies RENAME TO old; CREATE VIEW studies AS {ENDLESS}", "view studies"),
        ("CREATE TRIGGER more AFTER INSERT ON studies BEGIN DELETE FROM studies; END", "trigger more"),
        ("CREATE VIRTUAL TABLE words USING fts5(word)", "table words"),
    ],
)
def test_a_study_with_statements_of_its_own_is_not_read(statement, what, tmp_path):
    location = StudyLocation(tmp_path / "study.db")
    close_storage(open_storage(location, write=True))
    close_storage(open_storage(location))
    with closing(sqlite3.connect(location.path)) as database:
        database.executescript(statement)
    with pytest.raises(RunError, match=rf"study\.db: holds {what}, which is not an ordinary table or index"):
        open_storage(location)
    location.path.rename(location.backup)
    location.path.write_bytes(b"not a database at all" * 300)
    with pytest.raises(RunError, match=r"damaged, and so is its backup"):
        open_storage(location)
