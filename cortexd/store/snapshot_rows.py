"""The snapshots as rows, inside one transaction."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import LargeBinary, bindparam, cast, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from cortexd.errors import UnknownVersion
from cortexd.store import tables
from cortexd.store.chain import from_row
from cortexd.store.snapshot import Head, Snapshot

_C = tables.snapshot.c
# The body as bytes: one that is damaged can be read, and found out, only if nobody tries to decode it.
_COLUMNS = [cast(column, LargeBinary).label("body") if column is _C.body else column for column in _C]


class SnapshotRows:
    """Within the transaction of `connection`, one that writes where anything is to be changed."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def head(self) -> Head | None:
        """What is in force; None in an empty store."""
        row = (await self._connection.execute(select(tables.head))).one_or_none()
        if row is None:
            return None
        current = await self.get(row.current)
        confirmed = current if row.confirmed == row.current else await self.get(row.confirmed)
        return Head(current=current, confirmed=confirmed, revert_deadline=row.revert_deadline, file=row.file)

    async def set_head(self, head: Head) -> None:
        row = {"current": head.current.version, "confirmed": head.confirmed.version}
        statement = tables.upsert(tables.head)
        said = {"revert_deadline": head.revert_deadline, "file": head.file}
        await self._connection.execute(statement, {"id": 1, **row, **said})

    async def find(self, version: int) -> Snapshot | None:
        row = (await self._connection.execute(select(*_COLUMNS).where(_C.version == version))).mappings().one_or_none()
        return None if row is None else from_row(dict(row))

    async def get(self, version: int) -> Snapshot:
        """Raises UnknownVersion."""
        if (found := await self.find(version)) is None:
            raise UnknownVersion(f"There is no version {version} of the configuration, or it is no longer kept.")
        return found

    async def before(self, version: int | None = None, limit: int | None = None) -> list[Snapshot]:
        """The newest `limit` before `version`, newest first; None is no bound."""
        statement = select(*_COLUMNS).order_by(_C.version.desc()).limit(limit)
        if version is not None:
            statement = statement.where(_C.version < version)
        return [from_row(dict(row)) for row in (await self._connection.execute(statement)).mappings()]

    async def add(self, snapshots: Sequence[Snapshot]) -> None:
        """One at least, as they are, oldest first and newer than what there is; numbers left out count as forgotten."""
        newest = (await self._connection.execute(select(func.max(_C.version)))).scalar() or 0
        left_out: list[int] = []
        rows: list[dict[str, Any]] = []
        for snapshot in snapshots:
            left_out += range(newest + 1, snapshot.version)
            rows.append(msgspec.structs.asdict(snapshot) | {"body": bytes(snapshot.body).decode()})
            newest = snapshot.version
        await self._forgotten(left_out)
        await self._connection.execute(insert(tables.snapshot), rows)

    async def forget(self, head: Head, keep: int) -> None:
        """Remove what is older than the last `keep`, except what is pinned, proven or needed by `head`."""
        old = select(_C.version).where(_C.version <= head.current.version - keep, tables.UNKEPT)
        versions = (await self._connection.execute(old.where(_C.version != head.confirmed.version))).scalars().all()
        await self._forgotten(versions)
        if gone := [{"gone": version} for version in versions]:
            await self._connection.execute(delete(tables.snapshot).where(_C.version == bindparam("gone")), gone)

    async def prove(self, version: int, at: float) -> None:
        await self._connection.execute(update(tables.snapshot).where(_C.version == version).values(proven_at=at))

    async def pin(self, version: int, pinned: bool) -> None:
        await self._connection.execute(update(tables.snapshot).where(_C.version == version).values(pinned=int(pinned)))

    async def _forgotten(self, versions: Iterable[int]) -> None:
        if rows := [{"version": version} for version in versions]:
            await self._connection.execute(insert(tables.forgotten), rows)
