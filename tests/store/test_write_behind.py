import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from cortexd.errors import StoreFailed, StoreFull
from cortexd.store.write_behind import WriteBehind

SOON = 5.0  # seconds, that none of this takes


class FakeDatabase:
    """Keeps batches; fails while it has a `failure`, and waits for `open` before it commits."""

    def __init__(self) -> None:
        self.failure: StoreFailed | None = None
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.began = asyncio.Event()
        self.failed = asyncio.Event()
        self.committed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[list[str]]:
        if self.failure is not None:
            self.failed.set()
            raise self.failure
        batch: list[str] = []
        self.began.set()
        await self.open.wait()
        yield batch
        self.batches.append(batch)
        self.committed.set()


class Rows(WriteBehind[str]):
    def put(self, key: object, row: str) -> None:
        self._put(key, row)

    def waiting(self) -> list[str]:
        return self._waiting()

    async def _write(self, batch: list[str], rows: Sequence[str]) -> None:
        if "bug" in rows:
            raise LookupError("bug")
        batch.extend(rows)


@pytest.fixture
def bugs() -> list[BaseException]:
    return []


@pytest.fixture
async def database(bugs: list[BaseException]) -> AsyncIterator[FakeDatabase]:
    yield FakeDatabase()
    assert bugs == []


@pytest.fixture
def behind(database: FakeDatabase, bugs: list[BaseException]) -> Rows:
    return Rows("rows", database, bugs.append, delay=0, most=3)


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(SOON):
        await event.wait()
    event.clear()


async def test_what_is_put_is_written_without_being_asked_for(behind: Rows, database: FakeDatabase) -> None:
    behind.put(1, "a")
    await soon(database.committed)
    behind.put(2, "b")
    await soon(database.committed)
    assert database.batches == [["a"], ["b"]]
    await behind.close()


async def test_what_is_put_at_once_is_one_batch(behind: Rows, database: FakeDatabase) -> None:
    for key in "abc":
        behind.put(key, key)
    await behind.close()
    assert database.batches == [["a", "b", "c"]]


async def test_only_the_last_row_with_a_key_is_written(behind: Rows, database: FakeDatabase) -> None:
    behind.put(1, "old")
    behind.put(2, "other")
    behind.put(1, "new")
    await behind.flush()
    assert database.batches == [["other", "new"]]
    await behind.close()


async def test_a_row_that_is_replaced_while_it_is_written_is_written_again(
    behind: Rows, database: FakeDatabase
) -> None:
    database.open.clear()
    behind.put(1, "old")
    await soon(database.began)
    behind.put(1, "new")
    database.open.set()
    await behind.flush()
    assert database.batches == [["old"], ["new"]]
    assert behind.waiting() == []
    await behind.close()


async def test_a_flush_does_not_return_before_a_write_under_way(behind: Rows, database: FakeDatabase) -> None:
    database.open.clear()
    behind.put(1, "a")
    await soon(database.began)
    flush = asyncio.create_task(behind.flush())
    assert behind.waiting() == ["a"]
    database.open.set()
    await flush
    assert database.batches == [["a"]]
    await behind.close()


async def test_rows_are_kept_and_tried_again_while_the_database_fails(behind: Rows, database: FakeDatabase) -> None:
    database.failure = StoreFull()
    behind.put(1, "a")
    await soon(database.failed)
    behind.put(2, "b")
    await soon(database.failed)
    assert behind.failure is database.failure
    database.failure = None
    await soon(database.committed)
    assert database.batches == [["a", "b"]]
    await behind.close()
    assert behind.failure is None
    assert behind.dropped == 0


async def test_while_the_database_fails_the_oldest_rows_beyond_the_bound_are_dropped_and_counted(
    behind: Rows, database: FakeDatabase
) -> None:
    database.failure = StoreFull()
    for key in "abcde":
        behind.put(key, key)
    with pytest.raises(StoreFull):
        await behind.flush()
    database.failure = None
    await behind.close()
    assert database.batches == [["c", "d", "e"]]
    assert behind.dropped == 2


async def test_closing_says_that_the_rest_could_not_be_written(behind: Rows, database: FakeDatabase) -> None:
    database.failure = StoreFailed()
    behind.put(1, "a")
    with pytest.raises(StoreFailed):
        await behind.close()


async def test_what_comes_after_the_end_is_counted_as_dropped(behind: Rows, database: FakeDatabase) -> None:
    await behind.close()
    behind.put(1, "a")
    assert behind.dropped == 1
    assert database.batches == []


async def test_a_bug_ends_the_task_and_is_told(database: FakeDatabase) -> None:
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    Rows("rows", database, told.set_exception, delay=0).put(1, "bug")
    async with asyncio.timeout(SOON):
        with pytest.raises(LookupError):
            await told
