import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, strategies

from cortexd.errors import StoreFailed
from cortexd.store.chain import first_fault
from cortexd.store.snapshot import canonical
from tests.store.histories import by, put, snapshots_at

JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    max_leaves=8,
)


async def with_history(path: Path) -> bytes:
    """Three versions; returns the database's bytes."""
    async with snapshots_at(path) as snapshots:
        await put(snapshots, 1)
        await snapshots.put({"value": "of the second"}, by("an-author", "a-reason"), expected=1)
        await put(snapshots, 3)
    return path.read_bytes()


def rewrite(path: Path, statement: str) -> None:
    """As somebody would who knows how to take the triggers away."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name in ("snapshot_grows", "snapshot_stays", "snapshot_is_kept"):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("bit", [0x01, 0x80], ids=["another letter", "no letter"])
@pytest.mark.parametrize("found", ["of the second", "an-author", "a-reason"])
async def test_a_flipped_bit_is_noticed_and_its_version_named(tmp_path: Path, found: str, bit: int) -> None:
    path = tmp_path / "db"
    content = bytearray(await with_history(path))
    content[content.index(found.encode()) + 3] ^= bit
    path.write_bytes(content)
    async with snapshots_at(path) as snapshots:
        fault = await snapshots.verify()
    assert fault is not None
    assert fault.version == 2


@pytest.mark.parametrize("bit", [0x01, 0x80], ids=["another letter", "no letter"])
async def test_what_is_damaged_is_neither_read_nor_brought_back_nor_sealed_anew(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "db"
    content = bytearray(await with_history(path))
    content[content.index(b"of the second") + 3] ^= bit
    path.write_bytes(content)
    async with snapshots_at(path) as snapshots:
        for use in (snapshots.get(2), snapshots.diff(1, 2), snapshots.rollback(2, "ada", "back", expected=3)):
            with pytest.raises(StoreFailed, match="Version 2 has another content than was written"):
                await use
        assert (head := await snapshots.head()) is not None
        assert head.current.version == 3


async def test_a_flipped_bit_in_any_hash_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "db"
    content = await with_history(path)
    async with snapshots_at(path) as snapshots:
        second = await snapshots.get(2)
    for hash in (second.previous_hash, second.content_hash, second.chain_hash):
        damaged = bytearray(content)
        # A hash stands in its own row and in the next one's `previous_hash`.
        at = damaged.index(hash.encode())
        damaged[at] ^= 0x01
        path.write_bytes(damaged)
        async with snapshots_at(path) as snapshots:
            assert await snapshots.verify() is not None, hash


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE snapshot SET body = '{}' WHERE version = 2", "Version 2 has another content than was written."),
        ("UPDATE snapshot SET author = 'eve' WHERE version = 3", "Version 3 has another author, reason, time or place"),
        (
            "UPDATE snapshot SET created_at = 0.0 WHERE version = 1",
            "Version 1 has another author, reason, time or place",
        ),
        ("DELETE FROM snapshot WHERE version = 2", "Version 2 is missing."),
        ("DELETE FROM snapshot WHERE version = 1", "Version 1 is missing."),
        ("DELETE FROM snapshot WHERE version = 3", "Version 2 is not the one in force."),
        ("UPDATE head SET current = 1", "Version 3 is not the one in force."),
    ],
)
async def test_what_is_rewritten_behind_the_triggers_back_is_found(tmp_path: Path, statement: str, told: str) -> None:
    await with_history(tmp_path / "db")
    async with snapshots_at(tmp_path / "db") as snapshots:
        rewrite(tmp_path / "db", statement)
        assert str(await snapshots.verify()).startswith(told)


async def test_a_version_that_was_sealed_anew_does_not_follow_or_is_not_followed(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "a") as first, snapshots_at(tmp_path / "b") as second:
        for number in (1, 2, 3):
            await put(first, number)
            await put(second, number * 10)
        mine, theirs = [(await each.history())[::-1] for each in (first, second)]
    assert first_fault(mine, ()) is None
    for at in (1, 2):
        mixed = [*mine[:at], theirs[at], *mine[at + 1 :]]
        assert first_fault(mixed, ()) == (at + 1, "does not follow from the one before")
    assert first_fault([*mine, mine[0]], ()) == (1, "is out of its place")


@given(strategies.dictionaries(strategies.text(), JSON))
def test_there_is_one_way_to_write_a_document(document: dict[str, object]) -> None:
    turned = dict(reversed(document.items()))
    assert canonical(turned) == canonical(document)
