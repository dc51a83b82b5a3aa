"""What the tests of the store have in common."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cortexd.events import Arithmetic, Decided, Weighed
from cortexd.store.database import Database
from cortexd.store.journal import Journal


def bug(error: BaseException) -> None:
    """For a store whose task must not fail."""
    raise error


def decided(number: int = 0, **changes: Any) -> Decided:
    facts: dict[str, Any] = {
        "at": 1_700_000_000.0 + number,
        "kind": "load",
        "model": "goose",
        "incarnation": number,
        "reason": f"decision {number}",
    }
    return Decided(**facts | changes)


def decided_in_full() -> Decided:
    return decided(
        kind="evict",
        owner="req-7",
        weighed=[
            Weighed(model="gander", frees={"cuda:0": 3 << 30}, cost=0.25, chosen=True),
            Weighed(model="gosling", frees={"cuda:0": 1 << 30}, cost=float("inf"), why_not="in use"),
        ],
        memory={"cuda:0": Arithmetic(ceiling=8 << 30, resident=4 << 30, reserved=0, debt=0, needed=5 << 30)},
        config=18,
    )


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Database]:
    database = Database(path)
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def started(path: Path, **settings: Any) -> AsyncIterator[Journal]:
    """A journal in a database of its own."""
    async with opened(path) as database:
        journal = Journal(database, bug, **settings)
        await journal.start()
        yield journal
        await journal.close()
