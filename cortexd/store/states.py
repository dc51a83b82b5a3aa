"""State-tuned initial states: their names, and what each of their versions holds. The numbers are in files beside the database."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import RowMapping, func, insert, select, update

from cortexd.store import tables
from cortexd.store.database import Database

_C = tables.state_version.c


class StateContent(msgspec.Struct, frozen=True, kw_only=True):
    """What a version holds: for each of `layers` layers and `heads` heads a matrix `size` x `size`."""

    content_hash: str  # SHA-256 of its file
    layers: int
    heads: int
    size: int
    dtype: str  # in which it was uploaded; the file is in fp32
    bytes: int  # of its file


class StateVersion(StateContent, frozen=True, kw_only=True):
    """One version of a named state."""

    name: str
    version: int  # of this name: grows, and is never given twice
    author: str
    created_at: float  # seconds since the epoch
    deleted: bool

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class States:
    """Every version that was ever put, for good; what is deleted is marked. All raise StoreFailed, and change nothing then."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def list(self, name: str | None = None) -> list[StateVersion]:
        """By name and version; those of one `name` where it is given, oldest first."""
        statement = select(tables.state_version).order_by(_C.name, _C.version)
        if name is not None:
            statement = statement.where(_C.name == name)
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [_version(row) for row in rows]

    async def put(self, name: str, content: StateContent, author: str) -> StateVersion:
        """The newest version of `name` from now on: a new one, unless the newest holds the same and is not deleted."""
        here = _C.name == name
        newest = select(tables.state_version).where(here).order_by(_C.version.desc()).limit(1)
        async with self._database.writing() as connection:
            row = (await connection.execute(newest)).mappings().one_or_none()
            if row is not None and not row["deleted"] and row["content_hash"] == content.content_hash:
                return _version(row)
            version = StateVersion(
                **msgspec.structs.asdict(content),
                name=name,
                version=1 if row is None else row["version"] + 1,
                author=author,
                created_at=self._clock(),
                deleted=False,
            )
            await connection.execute(insert(tables.state_version), msgspec.structs.asdict(version))
        return version

    async def delete(self, name: str) -> int:
        """Mark every version of `name` as deleted; returns how many were not yet."""
        living = (_C.name == name) & (_C.deleted == 0)
        async with self._database.writing() as connection:
            count = (await connection.execute(select(func.count()).where(living))).scalar_one()
            await connection.execute(update(tables.state_version).where(living).values(deleted=1))
        return count


def _version(row: RowMapping) -> StateVersion:
    values: dict[str, Any] = {**row, "deleted": bool(row["deleted"])}
    return StateVersion(**values)
