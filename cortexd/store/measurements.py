"""What was learnt of models: how long they load, how much they hold, and how they are used."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from cortexd.moments import Moments
from cortexd.store import tables
from cortexd.store.database import Database
from cortexd.store.write_behind import Bug, WriteBehind


class Key(NamedTuple):
    """What a measurement is of: these weights, computed in this way, on this device."""

    weights: str
    strategy: str
    device: str


Quantities = dict[str, Moments]  # "load_seconds", "peak_bytes", …
_Row = tuple[Table, dict[str, Any]]  # where it belongs, and its columns


class Measurements(WriteBehind[_Row]):
    """Kept in memory and written behind. Neither `record` nor `remember` waits or fails with the database."""

    def __init__(self, database: Database, bug: Bug) -> None:
        super().__init__("measurements", database, bug)
        self._known: dict[Key, Quantities] | None = None

    async def load(self) -> dict[Key, Quantities]:
        """All that earlier daemons measured; to be awaited before anything is recorded. Raises StoreFailed."""
        self._known = {}
        async with self._database.reading() as connection:
            for row in (await connection.execute(select(tables.measurement))).mappings():
                quantities = self._known.setdefault(Key(row["weights"], row["strategy"], row["device"]), {})
                quantities[row["what"]] = Moments(row["count"], row["mean"], row["squares"])
        return {key: dict(quantities) for key, quantities in self._known.items()}

    def record(self, key: Key, what: str, value: float) -> None:
        """One more measurement of `what`; a finite number."""
        assert self._known is not None, "measurements are loaded before they are added to"
        assert math.isfinite(value), f"{what} is measured, and finite"
        quantities = self._known.setdefault(key, {})
        quantities[what] = measured = quantities.get(what, Moments()).including(value)
        row = {**key._asdict(), "what": what, **msgspec.structs.asdict(measured)}
        self._put((key, what), (tables.measurement, row))

    def remember(self, model: str, payload: bytes) -> None:
        """How `model` is used, as JSON that only its author reads, in place of what was remembered before."""
        self._put(model, (tables.model_use, {"model": model, "payload": payload.decode()}))

    async def recall(self) -> dict[str, bytes]:
        """What earlier daemons remembered, by model. Raises StoreFailed."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(tables.model_use))).all()
        return {row.model: row.payload.encode() for row in rows}

    async def _write(self, connection: AsyncConnection, rows: Sequence[_Row]) -> None:
        for table in (tables.measurement, tables.model_use):
            if batch := [columns for of, columns in rows if of is table]:
                await connection.execute(tables.upsert(table), batch)
