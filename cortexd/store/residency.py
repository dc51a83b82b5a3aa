"""Which models were ready, so that the next daemon can have them ready again."""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from cortexd.store import tables
from cortexd.store.database import Database
from cortexd.store.write_behind import Bug, WriteBehind


class Residency(WriteBehind[tuple[str, ...]]):
    """One list of names, the first to be restored first. Whoever stops all models for a restart notes nothing any more."""

    def __init__(self, database: Database, bug: Bug) -> None:
        super().__init__("residency", database, bug)

    def note(self, names: Sequence[str]) -> None:
        """These are ready now, by priority; returns at once, and no failure reaches the caller."""
        self._put("ready", tuple(dict.fromkeys(names)))

    async def recall(self) -> tuple[str, ...]:
        """What was noted last and written, by an earlier daemon or by this one. Raises StoreFailed."""
        statement = select(tables.resident.c.model).order_by(tables.resident.c.rank)
        async with self._database.reading() as connection:
            return tuple((await connection.execute(statement)).scalars())

    async def _write(self, connection: AsyncConnection, rows: Sequence[tuple[str, ...]]) -> None:
        await connection.execute(delete(tables.resident))
        if ranked := [{"model": name, "rank": rank} for rank, name in enumerate(rows[-1])]:
            await connection.execute(insert(tables.resident), ranked)
