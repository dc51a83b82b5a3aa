"""The one SQLite file: a connection that writes, a connection that reads."""

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from cortexd.errors import StoreFailed
from cortexd.store import file, tables
from cortexd.store.failures import store_errors
from cortexd.store.file import DatabaseFile
from cortexd.store.migrate import migrate


class Database:
    """Opened synchronously, before the loop starts: locked, checked and migrated. Raises StoreFailed, StoreFull.

    `set_aside` is where a damaged file went; None where there was none. Leave `writing` and `reading` soon: each of them
    holds up the other's commit or start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = DatabaseFile(path)
        self.set_aside = self._file.set_aside
        try:
            migrate(path)
        except BaseException:
            self._file.release()
            raise
        self._writer = _Lane(path, "rw", "BEGIN IMMEDIATE", file.WRITING)
        self._reader = _Lane(path, "ro", "BEGIN", file.READING)
        self._closed = False

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that commits at the end, or rolls back if the body raises; the next writer waits for it.

        What is committed survives the loss of power. Raises StoreFull or StoreFailed, and nothing has changed then.
        """
        async with self._transaction(self._writer) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """One consistent view of what is committed. Raises StoreFailed."""
        async with self._transaction(self._reader) as connection:
            yield connection

    async def check(self) -> None:
        """Whether a change would be kept, found out by making one; raises StoreFull or StoreFailed."""
        if not self._file.is_in_place():
            raise StoreFailed(f"The database {self.path} has been moved, deleted or replaced; restart cortexd.")
        async with self.writing() as connection:
            await connection.execute(tables.upsert(tables.heartbeat), {"id": 1, "at": time.time()})

    async def close(self) -> None:
        """Wait for the transactions under way and let go of the file; from then on every use raises StoreFailed."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._reader.close()
        self._file.release()

    @contextlib.asynccontextmanager
    async def _transaction(self, lane: "_Lane") -> AsyncGenerator[AsyncConnection]:
        async with lane.turn:
            if self._closed:
                raise StoreFailed("The database is closed.")
            try:
                with store_errors(self.path):
                    async with lane.engine.begin() as connection:
                        yield connection
            except BaseException as error:
                _let_go(error)
                raise


class _Lane:
    """One connection, and whose turn it is."""

    def __init__(self, path: Path, mode: str, begin: str, pragmas: tuple[str, ...]) -> None:
        self.turn = asyncio.Lock()
        url = URL.create("sqlite+aiosqlite", database=path.absolute().as_uri(), query={"mode": mode, "uri": "true"})
        arguments = {"timeout": file.BUSY_TIMEOUT, "isolation_level": None}
        self.engine = create_async_engine(url, connect_args=arguments, pool_size=1, max_overflow=0)

        @event.listens_for(self.engine.sync_engine, "connect")
        def set_up(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(self.engine.sync_engine, "begin")
        def begin_transaction(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    async def close(self) -> None:
        async with self.turn:
            await self.engine.dispose()


def _let_go(error: BaseException | None) -> None:
    """Free the cursors in the traceback of whoever was cancelled within a statement.

    While one of them lives, a connection keeps its lock on the file even when it is closed.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
