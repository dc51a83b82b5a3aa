"""A copy of the whole database, made while it is in use, and put back when it is lost."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from pathlib import Path

from aiosqlite import Connection

from cortexd.errors import StoreFailed
from cortexd.store import chain
from cortexd.store.database import Database
from cortexd.store.failures import store_errors
from cortexd.store.file import DatabaseFile
from cortexd.store.head_copy import HeadCopy
from cortexd.store.migrate import migrate, version_of
from cortexd.store.replacement import replacement, sync


async def backup(database: Database, target: Path) -> None:
    """What is committed in `database`, as one sound file at `target`, mode 0600, in place of what was there.

    Changes wait meanwhile. Raises StoreFull or StoreFailed, and `target` is as it was then.
    """
    async with database.reading() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, Connection)
        with store_errors(target), replacement(target) as new:
            with contextlib.closing(sqlite3.connect(new, check_same_thread=False)) as copy:
                copy.execute("PRAGMA journal_mode=OFF")  # a copy that is not finished is thrown away
                await driver.backup(copy)
            await asyncio.to_thread(_check, new)


def restore(source: Path, path: Path) -> Path | None:
    """Put the backup `source` in the place of the database at `path`, whose daemon is not running.

    The backup is checked, its chain of snapshots verified, and brought to today's tables before anything is replaced. Returns
    where the database now is that was there; None where there was none. Raises StoreFailed, and nothing has changed then.
    """
    if not source.is_file():
        raise StoreFailed(f"There is no backup {source}.")
    file = DatabaseFile(path)
    try:
        with store_errors(source), replacement(path) as new:
            shutil.copyfile(source, new)
            _check(new)
            migrate(new)
            new.with_name(new.name + "-journal").unlink(missing_ok=True)
            if fault := chain.verify(new):
                raise StoreFailed(f"The history in {source} is damaged. {fault}")
            return _set_aside(path) or file.set_aside
    finally:
        file.release()


def _check(path: Path) -> None:
    """That the file at `path` is a sound database of cortexd, and on the disk. Raises StoreFailed."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise StoreFailed(f"{path} is damaged ({found[0]}).")
    if version_of(path) is None:
        raise StoreFailed(f"{path} is no database of cortexd.")
    sync(path)


def _set_aside(path: Path) -> Path | None:
    """Another name for the database at `path`, and for the copy of its head, which is not the restored one's."""
    aside = path.with_name(f"{path.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    is_new = path.stat().st_size == 0  # made a moment ago, to be locked
    if not is_new:
        os.link(path, aside)
    with contextlib.suppress(FileNotFoundError):
        HeadCopy(path).path.rename(HeadCopy(aside).path)
    sync(path.parent)
    return None if is_new else aside
