"""The database: whole, damaged, newer, in the middle of a change, or somebody else's for now."""

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortexd.doctor.database import database, is_in_use, sqlite
from cortexd.store.file import DatabaseFile
from cortexd.store.versions import known_versions
from tests.doctor.made_up import NOBODY, as_nobody, needs_root
from tests.new_database import new_database


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cortexd.db"
    path.write_bytes(new_database())
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_a_whole_one_says_its_version_and_stays_as_it_is(file: Path):
    found = database(file)
    assert (found.level, known_versions()[-1] in found.says) == ("ok", True)
    assert [path.name for path in file.parent.iterdir()] == ["cortexd.db"]
    assert file.read_bytes() == new_database()


def test_none_is_made(tmp_path: Path):
    assert database(tmp_path / "cortexd.db").level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_one_that_a_daemon_uses_is_not_opened(file: Path):
    owner = DatabaseFile(file)
    file.write_bytes(b"whatever the daemon is doing")
    try:
        assert is_in_use(file)
        assert "in use by a daemon" in database(file).says
    finally:
        owner.release()
    assert not is_in_use(file)


def test_a_daemon_that_starts_finds_the_lock_free(file: Path):
    DatabaseFile(file).release()
    database(file)
    lock = os.open(file.with_name("cortexd.db.lock"), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_a_damaged_one_is_a_problem(file: Path):
    content = file.read_bytes()
    file.write_bytes(content[:8192] + b"\xff" * 8192 + content[16384:])
    assert (database(file).level, "damaged" in database(file).says) == ("problem", True)
    file.write_bytes(b"This was never a database." * 100)
    assert "damaged" in database(file).says


def test_one_of_a_newer_cortexd_is_a_problem_and_an_older_one_is_brought_on(file: Path):
    with opened(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert database(file).level == "problem"
    with opened(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert database(file).level == "note"


def test_one_that_was_left_in_the_middle_of_a_change_is_not_called_damaged(file: Path, tmp_path: Path):
    left = tmp_path / "left" / "cortexd.db"
    left.parent.mkdir()
    with opened(file) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE large (content BLOB)")
        for _ in range(100):
            connection.execute("INSERT INTO large VALUES (zeroblob(4000))")
        for path in (file, file.with_name("cortexd.db-journal")):
            shutil.copy(path, left.parent)
        connection.execute("ROLLBACK")
    before = left.read_bytes()
    found = database(left)
    assert (found.level, "takes back" in found.says) == ("note", True)
    assert left.read_bytes() == before


def test_a_large_one_is_given_up_in_time(file: Path):
    with opened(file) as connection:
        connection.execute("CREATE TABLE large (number INTEGER PRIMARY KEY, text TEXT)")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) "
            "INSERT INTO large SELECT i, 'x' FROM n"
        )
    found = database(file, patience=-1.0)
    assert (found.level, "in time" in found.says) == ("warning", True)


@needs_root
def test_one_of_another_user_is_told_so():
    content = new_database()
    with as_nobody() as folder:
        os.seteuid(0)
        (folder / "cortexd.db").write_bytes(content)
        (folder / "cortexd.db").chmod(0o600)
        os.seteuid(NOBODY)
        found = database(folder / "cortexd.db")
    assert (found.level, "by this user (65534)" in found.says) == ("problem", True)


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 6, 23), "ok"), ((3, 7, 0), "note"), ((3, 40, 1), "note"), ((3, 51, 2), "note"), ((3, 51, 3), "ok")],
)
def test_the_versions_with_the_bug_of_wal_mode_are_known(version: tuple[int, ...], level: str):
    assert sqlite(version).level == level
