"""Rows on their way into the database, for whoever cannot wait until they are there."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from cortexd.errors import StoreFailed
from cortexd.store.database import Database

Row = TypeVar("Row")
Bug = Callable[[BaseException], None]

_DELAY = 0.5  # seconds in which a batch comes together
_MOST = 10_000  # rows kept while the database fails


class WriteBehind(ABC, Generic[Row]):
    """A store that takes rows at once; a task of its own writes them in batches, `delay` seconds after the first of them.

    While the database fails, `failure` says how; the rows are kept and tried again, the oldest beyond `most` dropped and
    counted in `dropped`. Whatever else goes wrong is a bug, told to `bug`, and ends the task.
    """

    def __init__(self, name: str, database: Database, bug: Bug, delay: float = _DELAY, most: int = _MOST) -> None:
        self.failure: StoreFailed | None = None
        self.dropped = 0
        self._name = name
        self._database = database
        self._bug = bug
        self._delay = delay
        self._most = most
        self._rows: dict[Hashable, Row] = {}  # a row stays until it is committed
        self._any = asyncio.Event()
        self._closed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def _write(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Write `rows`, of which there is one at least; some may be there already, from a commit that was interrupted."""

    def _put(self, key: Hashable, row: Row) -> None:
        """Write `row` soon, in place of one with the same key that still waits."""
        if self._closed.is_set():
            self.dropped += 1
            return
        self._rows.pop(key, None)
        self._rows[key] = row
        if len(self._rows) > self._most:
            del self._rows[next(iter(self._rows))]
            self.dropped += 1
        self._any.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"write the {self._name}")
            self._task.add_done_callback(self._ended)

    def _waiting(self) -> list[Row]:
        """The rows that are not known to be in the database."""
        return list(self._rows.values())

    async def flush(self) -> None:
        """Write what was put until now; raises StoreFull or StoreFailed, and the rows wait on."""
        async with self._turn:
            batch = dict(self._rows)
            if batch:
                await self._commit(list(batch.values()))
            for key, row in batch.items():
                if self._rows.get(key) is row:  # and has not been replaced while it was written
                    del self._rows[key]
            if not self._rows:
                self._any.clear()

    async def close(self) -> None:
        """Write the rest. Raises StoreFull or StoreFailed where that fails; it is closed all the same."""
        self._closed.set()
        self._any.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self.flush()

    async def _commit(self, rows: list[Row]) -> None:
        try:
            async with self._database.writing() as connection:
                await self._write(connection, rows)
        except StoreFailed as failure:
            self.failure = failure
            raise
        self.failure = None

    async def _run(self) -> None:
        while not self._closed.is_set():
            await self._any.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._delay):
                    await self._closed.wait()
            with contextlib.suppress(StoreFailed):  # tried again after the next delay
                await self.flush()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug(error)
