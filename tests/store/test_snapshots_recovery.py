import shutil
import stat
from pathlib import Path

import pytest

from cortexd.errors import StoreFailed
from cortexd.store.head_copy import HeadCopy
from tests.store.histories import Clock, put, snapshots_at, values


async def make_history(path: Path, upto: int, start: int = 1) -> None:
    async with snapshots_at(path) as snapshots:
        for number in range(start, upto + 1):
            await put(snapshots, number)


async def test_the_copy_is_that_of_the_head_and_for_the_owner_alone(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert not HeadCopy(tmp_path / "db").path.exists()
        await put(snapshots, 1)
        await put(snapshots, 2, confirm_within=60)
        assert HeadCopy(tmp_path / "db").read() == await snapshots.head()
        await snapshots.confirm(2)
        assert HeadCopy(tmp_path / "db").read() == await snapshots.head()
    assert stat.S_IMODE((tmp_path / "db.head").stat().st_mode) == 0o600
    assert not (tmp_path / "db.head.new").exists()


async def test_a_copy_that_is_missing_or_behind_is_made_at_the_next_start(tmp_path: Path) -> None:
    await make_history(tmp_path / "db", upto=1)
    old = (tmp_path / "db.head").read_bytes()
    await make_history(tmp_path / "db", upto=3, start=2)
    new = (tmp_path / "db.head").read_bytes()
    for change in (lambda copy: copy.unlink(), lambda copy: copy.write_bytes(old)):
        change(tmp_path / "db.head")
        async with snapshots_at(tmp_path / "db") as snapshots:
            assert snapshots.notice is None
        assert (tmp_path / "db.head").read_bytes() == new


async def test_a_database_set_aside_as_damaged_leaves_the_head_and_the_numbers_go_on(tmp_path: Path) -> None:
    await make_history(tmp_path / "db", upto=5)
    with (tmp_path / "db").open("r+b") as file:
        file.write(b"damaged")
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert snapshots._database.set_aside is not None
        assert snapshots.notice == (
            "The database had no version of the configuration; version 5 is restored from its copy, others are gone."
        )
        assert await values(snapshots) == {5: 5}
        assert (await put(snapshots, 6)).version == 6
        assert await snapshots.verify() is None
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert snapshots.notice is None


async def test_a_pending_confirmation_survives_the_loss_of_the_database(tmp_path: Path) -> None:
    clock = Clock()
    async with snapshots_at(tmp_path / "db", clock=clock) as snapshots:
        for number in (1, 2):
            await put(snapshots, number)
        await put(snapshots, 3, confirm_within=60)
        await put(snapshots, 4)
    (tmp_path / "db").unlink()
    async with snapshots_at(tmp_path / "db", clock=clock) as snapshots:
        assert await values(snapshots) == {2: 2, 4: 4}
        assert await snapshots.revert(clock.now + 60) is not None
        assert await values(snapshots) == {2: 2, 4: 4, 5: 2}
        assert await snapshots.verify() is None


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_database_that_lost_its_newest_versions_is_noticed_and_mended(tmp_path: Path, lost: int) -> None:
    await make_history(tmp_path / "db", upto=6 - lost)
    shutil.copy(tmp_path / "db", tmp_path / "old")
    await make_history(tmp_path / "db", upto=6, start=7 - lost)
    (tmp_path / "old").replace(tmp_path / "db")
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert (snapshots.notice or "").startswith(
            f"The database had lost every version of the configuration after {6 - lost}; version 6 is restored"
        )
        assert await values(snapshots) == {number: number for number in (*range(1, 7 - lost), 6)}
        assert await snapshots.verify() is None


@pytest.mark.parametrize("upto", [3, 4], ids=["of the same length", "that goes one further"])
async def test_the_copy_of_another_history_is_told_of_and_not_used(tmp_path: Path, upto: int) -> None:
    await make_history(tmp_path / "db", upto=3)
    await make_history(tmp_path / "other", upto=upto)
    shutil.copy(tmp_path / "other.head", tmp_path / "db.head")
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert "another history" in (snapshots.notice or "")
        assert await values(snapshots) == {1: 1, 2: 2, 3: 3}
        assert await snapshots.verify() is None
        assert HeadCopy(tmp_path / "db").read() == await snapshots.head()


@pytest.mark.parametrize("at", range(0, 600, 37))
async def test_a_damaged_copy_is_told_of_and_made_anew(tmp_path: Path, at: int) -> None:
    await make_history(tmp_path / "db", upto=2)
    sound = (tmp_path / "db.head").read_bytes()
    damaged = bytearray(sound)
    damaged[at] ^= 0x81
    (tmp_path / "db.head").write_bytes(damaged)
    with pytest.raises(StoreFailed, match="damaged"):
        HeadCopy(tmp_path / "db").read()
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert "is damaged" in (snapshots.notice or "")
        assert await values(snapshots) == {1: 1, 2: 2}
    assert (tmp_path / "db.head").read_bytes() == sound


async def test_a_head_that_is_damaged_in_the_database_comes_back_from_its_copy_as_one_more_version(
    tmp_path: Path,
) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        await put(snapshots, "sound")
        await put(snapshots, "in force")
    content = (tmp_path / "db").read_bytes()
    (tmp_path / "db").write_bytes(content.replace(b"in force", b"in f\xefrce"))
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert snapshots.notice == (
            "Version 2 has another content than was written. Its copy is sound, and is in force as version 3."
        )
        head = await snapshots.head()
        assert head is not None
        assert (head.current.version, head.current.restored_from, head.current.source) == (3, 2, "boot")
        assert head.current.document == {"value": "in force"}
        fault = await snapshots.verify()
        assert fault is not None
        assert fault.version == 2
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert snapshots.notice is None


async def test_a_damaged_head_without_a_copy_is_told_of_at_every_start_and_never_repeated(tmp_path: Path) -> None:
    await make_history(tmp_path / "db", upto=2)
    content = (tmp_path / "db").read_bytes()
    (tmp_path / "db").write_bytes(content.replace(b'{"value":2}', b'{"value":3}'))
    (tmp_path / "db.head").unlink()
    for _ in range(2):
        async with snapshots_at(tmp_path / "db") as snapshots:
            assert snapshots.notice == "Version 2 has another content than was written."
            assert await values(snapshots) == {1: 1, 2: 3}


async def test_a_copy_that_cannot_be_written_costs_no_change_and_is_made_good(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        await put(snapshots, 1)
        (tmp_path / "db.head.new").mkdir()
        assert (await put(snapshots, 2)).version == 2
        assert isinstance(snapshots.copy_failure, StoreFailed)
        (tmp_path / "db.head.new").rmdir()
        await put(snapshots, 3)
        assert snapshots.copy_failure is None
        assert HeadCopy(tmp_path / "db").read() == await snapshots.head()
