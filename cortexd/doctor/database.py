"""SQLite, and the database of this user's daemon; read only, and only while no daemon has it."""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Generator
from pathlib import Path

from cortexd.doctor.finding import Finding, note, ok, problem, warning
from cortexd.store.versions import known_versions, version_in

_WAL_RESET = (3, 7, 0), (3, 51, 2)  # the first and the last with the bug
_PATIENCE = 5.0  # seconds for a look at all of it: as long as a daemon that starts meanwhile waits for its turn
_STEPS = 20_000  # of SQLite's machine, after which the clock is looked at
_LATER = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT}


def sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Finding:
    says = f"SQLite {'.'.join(map(str, version))}"
    first, last = _WAL_RESET
    if first <= version[:3] <= last:
        return note(
            "sqlite",
            f"{says} can damage a database in WAL mode (until 3.51.3); cortexd's is in another.",
            "Nothing has to be done, as only the daemon writes it.",
        )
    return ok("sqlite", f"{says}.")


def database(path: Path, migrations: Path | None = None, patience: float = _PATIENCE) -> Finding:
    """Of a database that no daemon uses: whether it is whole, and of which version."""
    try:
        if not path.exists():
            return ok("database", f"{path} is not made yet.")
        if is_in_use(path):
            return ok("database", f"{path} is in use by a daemon, which checked it when it started.")
        return _examined(path, known_versions(migrations), patience)
    except PermissionError:
        return problem(
            "database",
            f"{path} cannot be read by this user ({os.geteuid()}).",
            "Run this as the user who runs the daemon.",
        )


def is_in_use(path: Path) -> bool:
    """Whether a daemon holds its lock. Raises PermissionError where that cannot be seen."""
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)  # at once: a daemon that starts now must find it free
    return False


def _examined(path: Path, known: list[str], patience: float) -> Finding:
    if not os.access(path, os.R_OK, effective_ids=True):  # SQLite does not say why it cannot open a file
        raise PermissionError
    try:
        with _read_only(path, time.monotonic() + patience) as connection:
            wrong = [row[0] for row in connection.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
            version = version_in(connection)
    except sqlite3.Error as error:
        return _unread(path, error)
    if wrong:
        return _damaged(path, wrong[0])
    if version is not None and version not in known:
        return problem(
            "database",
            f"{path} was written by a newer cortexd: its tables are of version {version}, this one knows {known[-1]}.",
            "Start that version, or move the file away to begin anew.",
        )
    if version != known[-1]:
        return note(
            "database", f"{path} is whole; its tables, version {version or 'none'}, will be brought to {known[-1]}."
        )
    return ok("database", f"{path} is whole, its tables are of version {version}.")


@contextlib.contextmanager
def _read_only(path: Path, end: float) -> Generator[sqlite3.Connection]:
    """Given up at `end` of the monotonic clock."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0.0, isolation_level=None)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        yield connection


def _unread(path: Path, error: sqlite3.Error) -> Finding:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK or code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return note(
            "database", f"{path} was left in the middle of a change, which the next start of the daemon takes back."
        )
    if code & 0xFF in _LATER:
        return warning("database", f"{path} could not be looked at in time ({error}).", "Run this again.")
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return _damaged(path, str(error))
    return problem("database", f"{path} cannot be read ({error}).", "Look at the disk it is on, with `dmesg`.")


def _damaged(path: Path, what: str) -> Finding:
    return problem(
        "database",
        f"{path} is damaged ({what.splitlines()[-1]}).",
        "The next start sets it aside and begins a new one; `cortexd config restore` brings a backup back.",
    )
