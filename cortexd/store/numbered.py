"""Rows that are numbered as they come, of which the last are kept."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from cortexd.store import tables
from cortexd.store.database import Database
from cortexd.store.write_behind import Bug, WriteBehind


class _Numbered(Protocol):
    @property
    def id(self) -> int: ...


Row = TypeVar("Row", bound=_Numbered)


class NumberedRows(WriteBehind[Row]):
    """The last `keep` rows of `table`, whose primary key is their number."""

    def __init__(self, table: Table, database: Database, bug: Bug, keep: int) -> None:
        super().__init__(table.name, database, bug)
        self._table = table
        self._keep = keep
        self._last_id: int | None = None

    async def start(self) -> None:
        """To be awaited before anything is noted. Raises StoreFailed."""
        async with self._database.reading() as connection:
            self._last_id = (await connection.execute(select(func.max(self._table.c.id)))).scalar() or 0

    def _next_id(self) -> int:
        assert self._last_id is not None, f"the {self._name} is started before anything is noted"
        self._last_id += 1
        return self._last_id

    @abstractmethod
    def _columns(self, row: Row) -> dict[str, Any]:
        """The row as its table has it."""

    async def _write(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        await connection.execute(tables.upsert(self._table), [self._columns(row) for row in rows])
        await connection.execute(delete(self._table).where(self._table.c.id <= rows[-1].id - self._keep))
