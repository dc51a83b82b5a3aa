"""Which specs have loaded, so that the next daemon can fall back to them."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from cortexd.store import tables
from cortexd.store.database import Database
from cortexd.store.write_behind import Bug, WriteBehind


class ProvenRow(NamedTuple):
    """`spec` is JSON, of whoever remembers it; `version` the newest of the configuration that had it. Without a spec: forgotten."""

    model: str
    version: int
    spec: str


class ProvenSpecs(WriteBehind[ProvenRow]):
    """The last spec of each model that has loaded."""

    def __init__(self, database: Database, bug: Bug) -> None:
        super().__init__("proven specs", database, bug)

    def note(self, model: str, version: int, spec: str) -> None:
        """Returns at once, and no failure reaches the caller."""
        self._put(model, ProvenRow(model, version, spec))

    def forget(self, model: str) -> None:
        """Another model of this name is another. Returns at once, and no failure reaches the caller."""
        self._put(model, ProvenRow(model, 0, ""))

    async def recall(self) -> list[ProvenRow]:
        """Raises StoreFailed."""
        columns = tables.proven.c
        async with self._database.reading() as connection:
            rows = await connection.execute(select(columns.model, columns.version, columns.spec))
            return [ProvenRow(*row) for row in rows]

    async def _write(self, connection: AsyncConnection, rows: Sequence[ProvenRow]) -> None:
        if known := [row._asdict() for row in rows if row.spec]:
            await connection.execute(tables.upsert(tables.proven), known)
        if forgotten := [{"gone": row.model} for row in rows if not row.spec]:
            await connection.execute(delete(tables.proven).where(tables.proven.c.model == bindparam("gone")), forgotten)
