import asyncio
import json
import sqlite3
import stat
from pathlib import Path

import pytest

from cortexd.errors import InvalidBundle, InvalidConfiguration, StaleVersion, StoreFailed
from cortexd.store.backup import restore
from cortexd.store.bundle import pack, unpack
from cortexd.store.snapshots import Snapshots
from tests.store.histories import by, put, snapshots_at, values
from tests.store.stores import opened


async def with_history(snapshots: Snapshots) -> None:
    """Seven versions of which 3 to 7 are kept, and 2, which is pinned."""
    for number in range(1, 8):
        await put(snapshots, number)
        if number == 2:
            await snapshots.pin(2)


async def bundle_of(tmp_path: Path) -> bytes:
    async with snapshots_at(tmp_path / "source", keep=4) as snapshots:
        await with_history(snapshots)
        return await snapshots.export()


async def test_a_bundle_in_an_empty_store_is_the_same_history(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "a", keep=4) as source, snapshots_at(tmp_path / "b") as target:
        await with_history(source)
        bundle = await source.export()
        await target.import_bundle(bundle, "ann", "moved", expected=0)
        assert await target.history() == await source.history()
        assert await target.head() == await source.head()
        assert await target.verify() is None
        assert await target.export() == bundle
        assert (await put(target, 8)).version == 8


async def test_a_bundle_in_a_store_with_a_history_is_one_more_version(tmp_path: Path) -> None:
    bundle = await bundle_of(tmp_path)
    async with snapshots_at(tmp_path / "db") as snapshots:
        await put(snapshots, "mine")
        with pytest.raises(StaleVersion):
            await snapshots.import_bundle(bundle, "ann", "theirs", expected=5)
        imported = await snapshots.import_bundle(bundle, "ann", "theirs", expected=1)
        assert (imported.version, imported.source, imported.reason) == (2, "import", "theirs")
        assert await values(snapshots) == {1: "mine", 2: 7}


async def test_a_bundle_can_be_read_by_anybody(tmp_path: Path) -> None:
    first, *snapshots, last = map(json.loads, (await bundle_of(tmp_path)).splitlines())
    assert first == {"format": "cortexd-snapshots-1", "snapshots": 5}
    assert [snapshot["body"]["value"] for snapshot in snapshots] == [2, 4, 5, 6, 7]
    assert list(last) == ["sha256"]


async def test_a_bundle_that_is_damaged_anywhere_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    bundle = await bundle_of(tmp_path)
    async with snapshots_at(tmp_path / "db") as snapshots:
        for at in range(0, len(bundle) - 1, 41):
            damaged = bytearray(bundle)
            damaged[at] ^= 0x01
            with pytest.raises(InvalidBundle):
                await snapshots.import_bundle(bytes(damaged), "ann", "", expected=None)
        assert await snapshots.head() is None


@pytest.mark.parametrize("without", range(7))
async def test_a_bundle_that_lacks_a_line_is_refused(tmp_path: Path, without: int) -> None:
    lines = (await bundle_of(tmp_path)).splitlines(keepends=True)
    del lines[without]
    with pytest.raises(InvalidBundle):
        unpack(b"".join(lines))


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n", b"{}", b"[]\n[]\n", b"\xff\n\xff\n\xff\n", pack([])])
def test_what_is_no_bundle_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidBundle):
        unpack(content)


async def test_a_bundle_whose_history_was_mended_by_hand_is_refused(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "a") as mine, snapshots_at(tmp_path / "b") as theirs:
        for snapshots in (mine, theirs):
            await snapshots.put({"value": str(snapshots)}, by("ann"), expected=0)
            await put(snapshots, 2)
        mixed = [await mine.get(1), await theirs.get(2)]
    with pytest.raises(InvalidBundle, match="Version 2 does not follow"):
        unpack(pack(mixed))


async def test_a_bundle_of_a_schema_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    bundle = await bundle_of(tmp_path)
    async with snapshots_at(tmp_path / "db", schema_version=2) as snapshots:
        with pytest.raises(InvalidConfiguration):
            await snapshots.import_bundle(bundle, "ann", "", expected=0)
        assert await snapshots.head() is None


async def test_a_backup_is_made_while_changes_go_on_and_is_restored_into_an_empty_directory(tmp_path: Path) -> None:
    target = tmp_path / "backup.db"
    async with snapshots_at(tmp_path / "a" / "db", keep=4) as snapshots:
        await with_history(snapshots)
        before = await snapshots.history()
        await asyncio.gather(snapshots.backup(target), *(put(snapshots, number) for number in range(100, 110)))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert restore(target, tmp_path / "b" / "db") is None
    async with snapshots_at(tmp_path / "b" / "db") as snapshots:
        assert (await snapshots.history())[-len(before) :] == before
        assert await snapshots.verify() is None
        assert snapshots.notice is None
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "backup.db"}


async def test_restoring_sets_the_database_aside_that_was_there_and_its_head_with_it(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with snapshots_at(path) as snapshots:
        await put(snapshots, 1)
        await snapshots.backup(tmp_path / "backup")
        for number in (2, 3):
            await put(snapshots, number)
    aside = restore(tmp_path / "backup", path)
    assert aside is not None
    async with snapshots_at(path) as snapshots:
        assert await values(snapshots) == {1: 1}
        assert snapshots.notice is None
    async with snapshots_at(aside) as snapshots:
        assert await values(snapshots) == {1: 1, 2: 2, 3: 3}
        assert snapshots.notice is None


@pytest.mark.parametrize("damage", ["header", "history", "not ours", "not there"])
async def test_a_backup_that_is_not_sound_is_refused_and_nothing_is_replaced(tmp_path: Path, damage: str) -> None:
    path, backup = tmp_path / "db", tmp_path / "backup"
    async with snapshots_at(path) as snapshots:
        await put(snapshots, "first")
        await snapshots.backup(backup)
        await put(snapshots, "second")
    content = backup.read_bytes()
    backup.unlink()
    if damage == "header":
        backup.write_bytes(b"damaged" + content[7:])
    elif damage == "history":
        backup.write_bytes(content.replace(b"first", b"fi\xffst"))
    elif damage == "not ours":
        sqlite3.connect(backup).close()
    before = path.read_bytes()
    with pytest.raises(StoreFailed):
        restore(backup, path)
    assert path.read_bytes() == before
    assert {left.name for left in tmp_path.iterdir()} <= {"db", "db-journal", "db.lock", "db.head", "backup"}


async def test_a_database_in_use_is_not_replaced(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        await snapshots.backup(tmp_path / "backup")
        with pytest.raises(StoreFailed, match="Another cortexd"):
            restore(tmp_path / "backup", tmp_path / "db")


async def test_a_backup_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        await put(snapshots, 1)
        await snapshots.backup(tmp_path / "backup")
        before = (tmp_path / "backup").read_bytes()
        await put(snapshots, 2)
        (tmp_path / "backup.new").mkdir()
        with pytest.raises(StoreFailed):
            await snapshots.backup(tmp_path / "backup")
        assert (tmp_path / "backup").read_bytes() == before
        assert (await put(snapshots, 3)).version == 3


async def test_a_backup_of_before_there_were_snapshots_is_brought_up_to_date(tmp_path: Path) -> None:
    async with opened(tmp_path / "old"):
        pass
    connection = sqlite3.connect(tmp_path / "old", isolation_level=None)
    for name in ("head", "forgotten", "snapshot", "proven", "state_version"):
        connection.execute(f"DROP TABLE {name}")
    connection.execute("UPDATE alembic_version SET version_num = '0002'")
    connection.close()
    restore(tmp_path / "old", tmp_path / "db")
    async with snapshots_at(tmp_path / "db") as snapshots:
        assert await snapshots.head() is None
