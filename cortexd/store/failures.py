"""What goes wrong beneath the database, as the two errors that the rest of cortexd knows."""

import contextlib
import errno
import sqlite3
from collections.abc import Generator
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from cortexd.errors import StoreFailed, StoreFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# SQLite says SQLITE_FULL for ENOSPC alone: a quota and a file size limit look like any other write that failed.
_FULL_IN_SQLITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}


@contextlib.contextmanager
def store_errors(path: Path, what: str = "The database") -> Generator[None]:
    """What fails inside raises StoreFull or StoreFailed; bugs, such as wrong SQL or a broken constraint, pass unchanged."""
    try:
        yield
    except (DBAPIError, sqlite3.Error, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if _is_bug(cause):
            raise
        if _is_full(cause):
            raise StoreFull(f"There is no room to write {path} ({cause}).") from error
        raise StoreFailed(f"{what} {path} failed ({cause}).") from error


def _is_bug(cause: BaseException | None) -> bool:
    if isinstance(cause, OSError):
        return False
    return type(cause) not in (sqlite3.OperationalError, sqlite3.DatabaseError) or _code(cause) == sqlite3.SQLITE_ERROR


def _is_full(cause: BaseException | None) -> bool:
    return cause.errno in _FULL if isinstance(cause, OSError) else _code(cause) in _FULL_IN_SQLITE


def _code(cause: BaseException | None) -> int:
    """SQLite's extended result code; 0 where Python's own module is what failed."""
    return getattr(cause, "sqlite_errorcode", 0)
