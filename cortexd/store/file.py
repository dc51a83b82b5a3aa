"""The database file itself: made, locked, checked, and set aside if it is damaged."""

import contextlib
import fcntl
import os
import sqlite3
import time
from pathlib import Path

from cortexd.errors import StoreInUse
from cortexd.store.failures import store_errors

BUSY_TIMEOUT = 5.0  # seconds that one connection waits for the other
# A rollback journal rather than WAL: nothing that is committed lives outside the file, a database on a full or read-only
# disk can still be read, and whoever else opens it cannot run into the WAL-reset corruption (SQLite 3.7.0 to 3.51.2).
WRITING = (
    "journal_mode=PERSIST",
    "journal_size_limit=4194304",
    "synchronous=FULL",
    "foreign_keys=ON",
    "trusted_schema=OFF",
    "cell_size_check=ON",
)
READING = ("query_only=ON", "trusted_schema=OFF", "cell_size_check=ON")

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


def connect(path: Path) -> sqlite3.Connection:
    """The connection that writes, without the transactions that Python's module begins by itself."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        for pragma in WRITING:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


class DatabaseFile:
    """One sound database file for this process alone. Raises StoreFailed where there can be none.

    The directory is made with mode 0700, the file with 0600. `set_aside` is the new name of a file that was damaged:
    it is never deleted, and an empty one has taken its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None
        with store_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._locked()
            try:
                self._make_sound()
            except BaseException:
                self.release()
                raise

    def release(self) -> None:
        """Let another process have the file; no connection may be open any more."""
        os.close(self._lock)

    def is_in_place(self) -> bool:
        """False once somebody has moved, deleted or replaced the file: what is written then is lost."""
        try:
            return self._identity() == self._opened
        except FileNotFoundError:
            return False

    def _locked(self) -> int:
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise StoreInUse(f"Another cortexd uses {self.path}; one data directory serves one daemon.") from None
            raise
        return lock

    def _make_sound(self) -> None:
        self.path.touch(mode=0o600)
        if not self._is_sound():
            self.set_aside = self._move_away()
            self.path.touch(mode=0o600)
        self._opened = self._identity()

    def _is_sound(self) -> bool:
        try:
            with contextlib.closing(connect(self.path)) as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in _DAMAGED:
                return False
            raise

    def _move_away(self) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        names = (f"{self.path.name}.damaged-{stamp}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
        aside = next(path for name in names if not (path := self.path.with_name(name)).exists())
        # The rollback journal goes with it: left here, it would be applied to the new file.
        journal = self.path.with_name(self.path.name + "-journal")
        if journal.exists():
            journal.rename(aside.with_name(aside.name + "-journal"))
        return self.path.rename(aside)

    def _identity(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_dev, status.st_ino
