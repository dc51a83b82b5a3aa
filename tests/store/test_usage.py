import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cortexd.errors import StoreFailed
from cortexd.store.migrate import migrate
from cortexd.store.store import Store
from cortexd.store.usage import Usage, UsageRow
from tests.store.stores import bug, opened
from tests.store.test_migrate import up_to


@contextlib.asynccontextmanager
async def started(path: Path, **settings: Any) -> AsyncIterator[Usage]:
    """In a database of its own."""
    async with opened(path) as database:
        usage = Usage(database, bug, **settings)
        await usage.start()
        yield usage
        await usage.close()


def asked(rows: list[UsageRow]) -> list[float]:
    return [row.at for row in rows]


async def test_a_request_comes_back_as_it_was_noted_before_and_after_it_is_written(tmp_path: Path) -> None:
    async with started(tmp_path / "db") as usage:
        usage.note(1_700_000_000.25, "goose", 1.5, 2.5)
        waiting = await usage.read()
        await usage.flush()
        assert waiting == await usage.read()
    assert waiting == [UsageRow(id=1, at=1_700_000_000.25, model="goose", waited=1.5, service=2.5)]


@pytest.mark.parametrize("flushed", range(4), ids=lambda n: f"{n} written")
async def test_requests_come_in_the_order_in_which_they_were_asked_and_not_in_that_of_their_ends(
    tmp_path: Path, flushed: int
) -> None:
    ended = [20.0, 10.0, 30.0]
    async with started(tmp_path / "db") as usage:
        for at in ended[:flushed]:
            usage.note(at, "goose", 0.0, 1.0)
        await usage.flush()
        for at in ended[flushed:]:
            usage.note(at, "goose", 0.0, 1.0)
        assert asked(await usage.read()) == [10.0, 20.0, 30.0]
        assert asked(await usage.read(since=20.0)) == [20.0, 30.0]


async def test_a_request_that_is_committed_during_a_reading_is_found_once(tmp_path: Path) -> None:
    async with started(tmp_path / "db") as usage:
        for number in range(20):
            usage.note(float(number), "goose", 0.0, 1.0)
            rows, _ = await asyncio.gather(usage.read(), usage.flush())
            assert asked(rows) == list(range(number + 1))


async def test_the_next_daemon_takes_nothing_away(tmp_path: Path) -> None:
    for expected in ([0.0], [0.0, 1.0]):
        async with started(tmp_path / "db") as usage:
            usage.note(expected[-1], "goose", 0.0, 1.0)
    async with started(tmp_path / "db") as usage:
        assert asked(await usage.read()) == [0.0, 1.0]


async def test_the_oldest_requests_make_room(tmp_path: Path) -> None:
    async with started(tmp_path / "db", keep=10) as usage:
        for number in range(25):
            usage.note(float(number), "goose", 0.0, 1.0)
            await usage.flush()
        assert asked(await usage.read()) == list(range(15, 25))


async def test_no_request_is_lost_while_the_database_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortexd.store.file.BUSY_TIMEOUT", 0.01)
    async with started(tmp_path / "db") as usage:
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        usage.note(1.0, "goose", 0.0, 1.0)
        with pytest.raises(StoreFailed):
            await usage.flush()
        assert asked(await usage.read()) == [1.0]
        other.close()
    async with started(tmp_path / "db") as usage:
        assert asked(await usage.read()) == [1.0]


async def test_a_database_from_before_usage_was_kept_takes_it_and_keeps_its_decisions(tmp_path: Path) -> None:
    path = tmp_path / "db"
    migrate(path, up_to("0001", tmp_path))
    with contextlib.closing(sqlite3.connect(path)) as before:
        row = (1, 5.0, "load", "goose", 1, "it was asked for", None, "[]", "{}", None)
        before.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        before.commit()
    store = Store(path, bug)
    await store.start()
    store.usage.note(6.0, "goose", 0.0, 1.0)
    await store.close()
    store = Store(path, bug)
    assert [(row.at, row.reason) for row in await store.journal.query()] == [(5.0, "it was asked for")]
    assert asked(await store.usage.read()) == [6.0]
    await store.close()
