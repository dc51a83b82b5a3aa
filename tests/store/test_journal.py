import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cortexd.errors import StoreFailed
from cortexd.events import Arithmetic, Decided, EventBus
from cortexd.store.journal import JournalRow
from tests.store.stores import decided, decided_in_full, started


def ids(rows: list[JournalRow]) -> list[int]:
    return [row.id for row in rows]


async def test_a_decision_comes_back_as_it_was_noted_before_and_after_it_is_written(tmp_path: Path) -> None:
    async with started(tmp_path / "db") as journal:
        journal.note(decided_in_full())
        [waiting] = await journal.query()
        await journal.flush()
        [written] = await journal.query()
    assert waiting == written
    assert (written.at, written.kind, written.model) == (1_700_000_000.0, "evict", "goose")
    assert (written.owner, written.config, written.reason) == ("req-7", 18, "decision 0")
    assert msgspec.json.decode(written.memory, type=dict[str, Arithmetic]) == decided_in_full().memory
    assert [each["model"] for each in msgspec.json.decode(written.weighed)] == ["gander", "gosling"]


async def test_a_row_is_json_in_one_piece(tmp_path: Path) -> None:
    async with started(tmp_path / "db") as journal:
        journal.note(decided_in_full())
        row = msgspec.json.decode(msgspec.json.encode((await journal.query())[0]))
    assert [each["cost"] for each in row["weighed"]] == [0.25, None]
    assert row["memory"]["cuda:0"]["needed"] == 5 << 30


MIXED: list[dict[str, Any]] = [
    {"kind": "load", "model": "goose", "at": 10.0},
    {"kind": "queue", "model": "gander", "at": 11.0},
    {"kind": "evict", "model": "goose", "at": 12.0},
    {"kind": "load", "model": "gander", "at": 13.0},
    {"kind": "load", "model": "goose", "at": 14.0},
]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"limit": 2}, [5, 4]),
        ({"model": "goose"}, [5, 3, 1]),
        ({"kinds": {"load"}}, [5, 4, 1]),
        ({"kinds": ("queue", "evict")}, [3, 2]),
        ({"kinds": ()}, []),
        ({"since": 12.0}, [5, 4, 3]),
        ({"before_id": 3}, [2, 1]),
        ({"model": "goose", "kinds": {"load"}, "since": 11.0, "before_id": 6, "limit": 1}, [5]),
    ],
    ids=str,
)
@pytest.mark.parametrize("flushed", range(6), ids=lambda n: f"{n} written")
async def test_a_question_is_answered_newest_first_however_many_rows_are_written(
    tmp_path: Path, question: dict[str, Any], answer: list[int], flushed: int
) -> None:
    async with started(tmp_path / "db") as journal:
        for facts in MIXED[:flushed]:
            journal.note(decided(**facts))
        await journal.flush()
        for facts in MIXED[flushed:]:
            journal.note(decided(**facts))
        assert ids(await journal.query(**question)) == answer


async def test_pages_by_id_give_every_row_once_while_rows_are_noted_and_written(tmp_path: Path) -> None:
    async with started(tmp_path / "db") as journal:
        for number in range(50):
            journal.note(decided(number))
        seen, before = list[int](), None
        while page := await journal.query(before_id=before, limit=7):
            seen += ids(page)
            before = page[-1].id
            journal.note(decided())
            await journal.flush()
        assert seen == list(range(50, 0, -1))


async def test_a_row_that_is_committed_during_a_query_is_found_once(tmp_path: Path) -> None:
    async with started(tmp_path / "db") as journal:
        for number in range(20):
            journal.note(decided(number))
            rows, _ = await asyncio.gather(journal.query(), journal.flush())
            assert ids(rows) == list(range(number + 1, 0, -1))


async def test_ids_go_on_after_a_restart(tmp_path: Path) -> None:
    for expected in ([1], [2, 1]):
        async with started(tmp_path / "db") as journal:
            journal.note(decided())
            assert ids(await journal.query()) == expected


async def test_the_oldest_rows_make_room(tmp_path: Path) -> None:
    async with started(tmp_path / "db", keep=10) as journal:
        for number in range(25):
            journal.note(decided(number))
            await journal.flush()
        assert ids(await journal.query()) == list(range(25, 15, -1))


async def test_a_publisher_notices_nothing_of_a_database_that_fails_and_no_decision_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortexd.store.file.BUSY_TIMEOUT", 0.01)
    bus = EventBus()
    async with started(tmp_path / "db") as journal:
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with bus.subscribed(journal.note):
            bus.publish(decided())
            with pytest.raises(StoreFailed):
                await journal.flush()
            bus.publish(decided())
            assert ids(await journal.query()) == [2, 1]
        other.close()
        await journal.flush()
        assert journal.dropped == 0
    async with started(tmp_path / "db") as journal:
        assert ids(await journal.query()) == [2, 1]


def test_a_row_has_every_field_of_a_decision() -> None:
    fields = {field.name for field in msgspec.structs.fields(Decided)}
    assert fields == {field.name for field in msgspec.structs.fields(JournalRow)} - {"id"}
