"""The requests that were served: what `cortexd simulate` replays."""

from typing import Any

import msgspec
from sqlalchemy import select

from cortexd.store import tables
from cortexd.store.database import Database
from cortexd.store.numbered import NumberedRows
from cortexd.store.write_behind import Bug

_KEPT = 200_000  # rows


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request that was served."""

    id: int  # grows with every request that ended
    at: float  # when it was asked, seconds since the epoch
    model: str
    waited: float  # seconds in the queue and for a load
    service: float  # seconds from then until its answer was complete


class Usage(NumberedRows[UsageRow]):
    """The last `keep` requests. `note` is a listener's work: it returns at once, and no failure reaches it."""

    def __init__(self, database: Database, bug: Bug, keep: int = _KEPT) -> None:
        super().__init__(tables.usage, database, bug, keep)

    def note(self, at: float, model: str, waited: float, service: float) -> None:
        """`at` in seconds since the epoch, the others in seconds, as in `UsageRow`."""
        row = UsageRow(id=self._next_id(), at=at, model=model, waited=waited, service=service)
        self._put(row.id, row)

    async def read(self, since: float | None = None) -> list[UsageRow]:
        """All that were asked from `since` on, in seconds since the epoch; oldest first, written or not.

        Rows are noted when their requests end, and so not in the order in which they were asked. Raises StoreFailed.
        """
        # Looked at before the database: a row that is written in between is found twice rather than not at all.
        found = {row.id: row for row in self._waiting()}
        async with self._database.reading() as connection:
            for row in (await connection.execute(select(tables.usage))).mappings():
                found[row["id"]] = UsageRow(**row)
        asked = (row for row in found.values() if since is None or row.at >= since)
        return sorted(asked, key=lambda row: (row.at, row.id))

    def _columns(self, row: UsageRow) -> dict[str, Any]:
        return msgspec.structs.asdict(row)
