import asyncio
import contextlib
import json
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from cortexd.errors import StoreFailed
from cortexd.store import tables
from cortexd.store.database import Database
from tests.store.stores import opened

PAGE = 4096  # bytes


def keep(name: str) -> tuple[object, dict[str, str]]:
    return insert(tables.model_use), {"model": name, "payload": "{}"}


async def kept(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list((await connection.execute(select(tables.model_use.c.model))).scalars())


async def test_only_the_owner_may_look_into_directory_file_and_journal(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cortexd.db"
    async with opened(path) as database:
        await database.check()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {"cortexd.db": 0o600, "cortexd.db-journal": 0o600, "cortexd.db.lock": 0o600}


async def test_what_was_committed_is_there_at_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database, database.writing() as connection:
        await connection.execute(*keep("goose"))
    async with opened(tmp_path / "db") as database:
        assert await kept(database) == ["goose"]
        assert database.set_aside is None


async def test_two_writers_at_once_take_turns(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:

        async def count_up() -> None:
            for _ in range(20):
                async with database.writing() as connection:
                    rank = (await connection.execute(select(func.max(tables.resident.c.rank)))).scalar() or 0
                    await connection.execute(insert(tables.resident), {"model": str(rank + 1), "rank": rank + 1})

        await asyncio.gather(count_up(), count_up())
        async with database.reading() as connection:
            ranks = (await connection.execute(select(tables.resident.c.rank))).scalars()
            assert sorted(ranks) == list(range(1, 41))


async def test_a_transaction_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:

        async def keep_and_fail() -> None:
            async with database.writing() as connection:
                await connection.execute(*keep("goose"))
                raise LookupError

        with pytest.raises(LookupError):
            await keep_and_fail()
        assert await kept(database) == []


async def test_a_writer_that_is_cancelled_anywhere_leaves_all_or_nothing_and_the_next_one_writes(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "db") as database:

        async def keep_two(number: int) -> None:
            async with database.writing() as connection:
                await connection.execute(*keep(f"first {number}"))
                await connection.execute(*keep(f"second {number}"))

        for number in range(40):
            writer = asyncio.create_task(keep_two(number))
            for _ in range(number // 2):
                await asyncio.sleep(0)
            writer.cancel()
            await asyncio.wait([writer])
            await database.check()
        names = await kept(database)
        firsts, seconds = ({name.split()[1] for name in names if which in name} for which in ("first", "second"))
        assert firsts == seconds


async def test_a_reader_does_not_see_what_is_not_committed(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        async with database.writing() as connection:
            await connection.execute(*keep("goose"))
            assert await kept(database) == []
        assert await kept(database) == ["goose"]


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        with pytest.raises(StoreFailed, match="readonly"):
            async with database.reading() as connection:
                await connection.execute(*keep("goose"))


@pytest.mark.parametrize(
    ("pragma", "value"), [("synchronous", 2), ("foreign_keys", 1), ("journal_mode", "persist"), ("busy_timeout", 5000)]
)
async def test_the_writing_connection_is_set_to_lose_nothing(tmp_path: Path, pragma: str, value: object) -> None:
    async with opened(tmp_path / "db") as database, database.writing() as connection:
        assert (await connection.execute(text(f"PRAGMA {pragma}"))).scalar() == value


@pytest.mark.parametrize(
    ("statement", "error"),
    [("SELEC 1", OperationalError), ("INSERT INTO heartbeat VALUES (2, 0.0)", IntegrityError)],
    ids=["wrong SQL", "broken constraint"],
)
async def test_a_bug_is_not_taken_for_a_failure_of_the_disk(
    tmp_path: Path, statement: str, error: type[Exception]
) -> None:
    async with opened(tmp_path / "db") as database:
        with pytest.raises(error):
            async with database.writing() as connection:
                await connection.execute(text(statement))


async def test_another_program_that_keeps_the_file_locked_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortexd.store.file.BUSY_TIMEOUT", 0.01)
    async with opened(tmp_path / "db") as database:
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"):
            await database.check()
        other.close()
        await database.check()


async def test_a_second_daemon_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "db"):
        with pytest.raises(StoreFailed, match="Another cortexd uses"):
            Database(tmp_path / "db")


async def test_a_directory_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed, match="File exists"):
        Database(tmp_path / "file" / "db")


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
async def test_a_check_notices_that_the_file_is_no_longer_the_one_that_was_opened(
    tmp_path: Path, replaced: bool
) -> None:
    path = tmp_path / "db"
    async with opened(path) as database:
        await database.check()
        content = path.read_bytes()
        path.rename(tmp_path / "moved")
        if replaced:
            path.write_bytes(content)
        with pytest.raises(StoreFailed, match="moved, deleted or replaced"):
            await database.check()


async def test_a_check_leaves_a_heartbeat(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        await database.check()
        await database.check()
        async with database.reading() as connection:
            assert (await connection.execute(select(func.count()).select_from(tables.heartbeat))).scalar() == 1


async def test_a_closed_database_refuses_and_closes_twice(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    await database.close()
    await database.close()
    with pytest.raises(StoreFailed, match="closed"):
        await database.check()


@pytest.mark.parametrize("at", [0, 20, PAGE, PAGE + 3, 3 * PAGE], ids=lambda at: f"byte {at}")
async def test_a_flipped_byte_is_noticed_and_the_file_set_aside_unchanged(tmp_path: Path, at: int) -> None:
    path = tmp_path / "db"
    async with opened(path) as database, database.writing() as connection:
        await connection.execute(*keep("goose"))
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 0xFF
    path.write_bytes(damaged)
    async with opened(path) as database:
        assert database.set_aside is not None
        assert database.set_aside.read_bytes() == damaged
        assert await kept(database) == []
        await database.check()


async def test_a_second_damaged_file_does_not_replace_the_first(tmp_path: Path) -> None:
    path = tmp_path / "db"
    asides = set[Path | None]()
    for content in (b"first" * 100, b"second" * 100):
        path.write_bytes(content)
        async with opened(path) as database:
            asides.add(database.set_aside)
    assert {aside.read_bytes() for aside in asides if aside} == {b"first" * 100, b"second" * 100}


async def test_a_truncated_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with opened(path) as database:
        await database.check()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - PAGE)
    async with opened(path) as database:
        assert database.set_aside is not None


@pytest.mark.parametrize("script", ["limit", "tmpfs"])
def test_a_full_disk_is_told_and_later_rows_are_written(tmp_path: Path, script: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.store.full_disk", script, str(tmp_path)]
    if script == "tmpfs":
        command = ["unshare", "--map-root-user", "--mount", *command]
        if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["error"] == "StoreFull"
    assert told["status"] == 507
    assert told["dropped"] == 0
    assert told["missing"] == []
    assert told["sound"]


def test_a_killed_writer_leaves_a_sound_database_with_every_row_that_it_flushed(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.store.killed", str(tmp_path / "db"), "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] == 20
    assert told["set_aside"] == []
    with sqlite3.connect(tmp_path / "db") as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert set(told["flushed"]) <= {id for (id,) in connection.execute("SELECT id FROM journal")}
    connection.close()
    assert len(told["flushed"]) >= 20


@pytest.mark.parametrize("kind", ["reading", "writing"])
async def test_a_transaction_that_is_cancelled_anywhere_leaves_no_lock_behind(tmp_path: Path, kind: str) -> None:
    cancelled: list[asyncio.Task[None]] = []  # kept, and with each what its traceback holds
    async with opened(tmp_path / "db") as database:

        async def use() -> None:
            if kind == "writing":
                await database.check()
                return
            async with database.reading() as connection:
                (await connection.execute(select(tables.heartbeat))).all()

        await database.check()
        for passes in range(120):
            cancelled.append(asyncio.create_task(use()))
            for _ in range(passes):
                await asyncio.sleep(0)
            cancelled[-1].cancel()
            await asyncio.wait(cancelled[-1:])
            with contextlib.closing(sqlite3.connect(tmp_path / "db", timeout=1.0, isolation_level=None)) as other:
                other.executescript("BEGIN IMMEDIATE; UPDATE heartbeat SET at = 2.0; COMMIT")
    assert any(task.cancelled() for task in cancelled)
