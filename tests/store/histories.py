"""What the tests of the snapshots have in common."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cortexd.store.snapshot import Origin, Snapshot, Source
from cortexd.store.snapshots import Snapshots
from tests.store.stores import opened

SEED = {"lifecycle": {"keep_alive": 300}, "model": [{"name": "goose", "pin": False}]}


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


def by(author: str, reason: str = "", source: Source = "api") -> Origin:
    return Origin(author=author, reason=reason, source=source)


@contextlib.asynccontextmanager
async def snapshots_at(path: Path, **settings: Any) -> AsyncIterator[Snapshots]:
    """The snapshots of the database at `path`, started."""
    async with opened(path) as database:
        snapshots = Snapshots(database, **settings)
        await snapshots.start()
        yield snapshots


async def put(snapshots: Snapshots, value: object, expected: int | None = None, **settings: Any) -> Snapshot:
    """A document that is this one value."""
    return await snapshots.put({"value": value}, by("ann"), expected=expected, **settings)


async def values(snapshots: Snapshots) -> dict[int, object]:
    """By version, the oldest first."""
    history = await snapshots.history(limit=100_000)
    return {snapshot.version: snapshot.document["value"] for snapshot in reversed(history)}
