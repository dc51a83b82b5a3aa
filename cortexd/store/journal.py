"""The decision journal: what the supervisor decided, and why."""

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, select

from cortexd.events import Decided
from cortexd.store import tables
from cortexd.store.database import Database
from cortexd.store.numbered import NumberedRows
from cortexd.store.write_behind import Bug

_KEPT = 100_000  # rows


class JournalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A `Decided` as it is kept; `weighed` and `memory` are its nested parts as JSON, where an infinite cost is null."""

    id: int  # grows with every decision
    at: float  # seconds since the epoch
    kind: str
    model: str
    incarnation: int
    reason: str
    owner: str | None
    weighed: msgspec.Raw
    memory: msgspec.Raw
    config: int | None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are wanted; None asks for all."""

    model: str | None = None
    kinds: Collection[str] | None = None
    since: float | None = None  # seconds since the epoch
    before_id: int | None = None

    def fits(self, row: JournalRow) -> bool:
        return (
            (self.model is None or row.model == self.model)
            and (self.kinds is None or row.kind in self.kinds)
            and (self.since is None or row.at >= self.since)
            and (self.before_id is None or row.id < self.before_id)
        )

    def conditions(self) -> list[ColumnElement[bool]]:
        """The same for SQL."""
        column = tables.journal.c
        conditions: list[ColumnElement[bool]] = []
        if self.model is not None:
            conditions.append(column.model == self.model)
        if self.kinds is not None:
            conditions.append(column.kind.in_(self.kinds))
        if self.since is not None:
            conditions.append(column.at >= self.since)
        if self.before_id is not None:
            conditions.append(column.id < self.before_id)
        return conditions


class Journal(NumberedRows[JournalRow]):
    """The last `keep` decisions. `note` is a listener's work: it returns at once, and no failure reaches it."""

    def __init__(self, database: Database, bug: Bug, keep: int = _KEPT) -> None:
        super().__init__(tables.journal, database, bug, keep)

    def note(self, decided: Decided) -> None:
        row = JournalRow(
            id=self._next_id(),
            at=decided.at,
            kind=decided.kind,
            model=decided.model,
            incarnation=decided.incarnation,
            reason=decided.reason,
            owner=decided.owner,
            weighed=msgspec.Raw(msgspec.json.encode(decided.weighed)),
            memory=msgspec.Raw(msgspec.json.encode(decided.memory)),
            config=decided.config,
        )
        self._put(row.id, row)

    async def query(
        self,
        model: str | None = None,
        kinds: Collection[str] | None = None,
        since: float | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> list[JournalRow]:
        """The newest `limit` rows that fit, newest first, written or not; `since` is in seconds since the epoch.

        Raises StoreFailed.
        """
        question = Question(model=model, kinds=kinds, since=since, before_id=before_id)
        # Looked at before the database: a row that is written in between is found twice rather than not at all.
        found = {row.id: row for row in self._waiting() if question.fits(row)}
        statement = select(tables.journal).where(*question.conditions()).order_by(tables.journal.c.id.desc())
        async with self._database.reading() as connection:
            for row in (await connection.execute(statement.limit(limit))).mappings():
                found[row["id"]] = _from_table(dict(row))
        return [found[id] for id in sorted(found, reverse=True)[:limit]]

    def _columns(self, row: JournalRow) -> dict[str, Any]:
        texts = {"weighed": bytes(row.weighed).decode(), "memory": bytes(row.memory).decode()}
        return msgspec.structs.asdict(row) | texts


def _from_table(columns: dict[str, Any]) -> JournalRow:
    columns["weighed"] = msgspec.Raw(columns["weighed"].encode())
    columns["memory"] = msgspec.Raw(columns["memory"].encode())
    return JournalRow(**columns)
