import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from cortexd.errors import InvalidConfiguration, StaleVersion, UnknownVersion
from cortexd.store.snapshots import Snapshots
from cortexd.store.store import Store
from tests.store.histories import SEED, Clock, by, put, snapshots_at, values
from tests.store.stores import bug


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def snapshots(tmp_path: Path, clock: Clock) -> AsyncIterator[Snapshots]:
    async with snapshots_at(tmp_path / "db", clock=clock) as snapshots:
        yield snapshots


async def in_force(snapshots: Snapshots) -> object:
    head = await snapshots.head()
    return head and head.current.document["value"]


async def test_an_empty_store_has_no_head_and_no_history(snapshots: Snapshots) -> None:
    assert await snapshots.head() is None
    assert await snapshots.history() == []
    assert await snapshots.verify() is None


async def test_a_version_tells_who_wanted_it_when_and_why(snapshots: Snapshots, clock: Clock) -> None:
    first = await snapshots.put(SEED, by("root", "first start", "boot"), expected=0)
    clock.now += 60
    second = await snapshots.put({"value": "ä"}, by("ann", "more room"), expected=1)
    assert (first.version, first.parent, first.previous_hash) == (1, None, "")
    assert (second.version, second.parent, second.previous_hash) == (2, 1, first.chain_hash)
    assert (second.author, second.reason, second.source) == ("ann", "more room", "api")
    assert (second.restored_from, second.created_at) == (None, clock.now)
    assert bytes(second.body) == '{"value":"ä"}'.encode()
    assert await snapshots.get(2) == second
    assert await snapshots.history() == [second, first]


async def test_what_is_in_force_already_makes_no_version_even_for_a_writer_that_is_late(snapshots: Snapshots) -> None:
    await snapshots.put({"a": 1, "b": [2]}, by("ann"), expected=0)
    second = await snapshots.put({"a": 2, "b": [2]}, by("ann"), expected=1)
    again = await snapshots.put({"b": [2], "a": 2}, by("bob"), expected=1)
    assert again == second
    assert len(await snapshots.history()) == 2


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0, False)])
async def test_values_that_only_python_takes_for_equal_are_different(
    snapshots: Snapshots, before: object, after: object
) -> None:
    await put(snapshots, before)
    assert (await put(snapshots, after)).version == 2


async def test_history_is_told_in_pages(snapshots: Snapshots) -> None:
    for number in range(1, 8):
        await put(snapshots, number)
    first = [snapshot.version for snapshot in await snapshots.history(limit=3)]
    second = [snapshot.version for snapshot in await snapshots.history(limit=3, before=first[-1])]
    assert (first, second) == ([7, 6, 5], [4, 3, 2])


async def test_of_two_administrators_one_wins_and_the_other_learns_what_changed(snapshots: Snapshots) -> None:
    await snapshots.put(SEED, by("root"), expected=0)
    ann = snapshots.put(SEED | {"lifecycle": {"keep_alive": 60}}, by("ann", "less memory"), expected=1)
    bob = snapshots.put(SEED | {"model": [{"name": "goose", "pin": True}]}, by("bob", "goose is ours"), expected=1)
    outcomes = dict(zip(("ann", "bob"), await asyncio.gather(ann, bob, return_exceptions=True), strict=True))
    lost = next(author for author, outcome in outcomes.items() if isinstance(outcome, StaleVersion))
    error = outcomes.pop(lost)
    [(won, snapshot)] = outcomes.items()
    assert await snapshots.history(limit=1) == [snapshot]
    assert isinstance(error, StaleVersion)
    key, reason = {"ann": ("lifecycle.keep_alive", "less memory"), "bob": ("model.goose.pin", "goose is ours")}[won]
    assert (error.status, error.current, error.changed) == (412, 2, (key,))
    assert str(error) == (
        f"Version 2 of the configuration is in force, not 1; changed meanwhile: {key} (last by {won}, “{reason}”)."
    )


async def test_a_hundred_writers_that_know_the_same_version_make_one(snapshots: Snapshots) -> None:
    await put(snapshots, "start")
    writers = [put(snapshots, number, expected=1) for number in range(100)]
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert sum(isinstance(outcome, StaleVersion) for outcome in outcomes) == 99
    assert list(await values(snapshots)) == [1, 2]


@pytest.mark.parametrize("expected", [0, 3])
async def test_a_version_that_never_was_is_stale_too(snapshots: Snapshots, expected: int) -> None:
    await put(snapshots, 1)
    await put(snapshots, 2)
    with pytest.raises(StaleVersion) as stale:
        await put(snapshots, 3, expected=expected)
    assert (stale.value.current, stale.value.changed) == (2, ())


async def test_a_rollback_is_a_new_version_with_the_old_content(snapshots: Snapshots) -> None:
    for number in (1, 2, 3):
        await put(snapshots, number)
    back = await snapshots.rollback(1, "ann", "2 was wrong", expected=3)
    assert (back.version, back.parent, back.restored_from, back.source) == (4, 3, 1, "rollback")
    assert await values(snapshots) == {1: 1, 2: 2, 3: 3, 4: 1}


async def test_a_rollback_can_be_rolled_back(snapshots: Snapshots) -> None:
    await put(snapshots, "old")
    await put(snapshots, "new")
    await snapshots.rollback(1, "ann", "wrong", expected=2)
    again = await snapshots.rollback(2, "ann", "was right after all", expected=3)
    assert (again.version, again.restored_from, await in_force(snapshots)) == (4, 2, "new")


async def test_a_rollback_to_what_is_in_force_makes_no_version(snapshots: Snapshots) -> None:
    await put(snapshots, "same")
    assert (await snapshots.rollback(1, "ann", "", expected=1)).version == 1


async def test_a_rollback_is_refused_to_a_late_writer_and_to_a_version_that_is_not_there(snapshots: Snapshots) -> None:
    await put(snapshots, 1)
    await put(snapshots, 2)
    with pytest.raises(StaleVersion):
        await snapshots.rollback(1, "ann", "", expected=1)
    with pytest.raises(UnknownVersion, match="no version 9"):
        await snapshots.rollback(9, "ann", "", expected=2)
    assert list(await values(snapshots)) == [1, 2]


async def test_a_change_that_nobody_confirms_is_undone_when_its_time_is_up(snapshots: Snapshots, clock: Clock) -> None:
    await put(snapshots, "works")
    await put(snapshots, "locks everybody out", confirm_within=120)
    assert await snapshots.expired(clock.now + 119.9) is None
    assert await snapshots.revert(clock.now + 119.9) is None
    head = await snapshots.expired(clock.now + 120)
    assert head is not None
    assert (head.current.version, head.confirmed.version) == (2, 1)
    undone = await snapshots.revert(clock.now + 120)
    assert undone is not None
    assert (undone.version, undone.restored_from, undone.source) == (3, 1, "auto-revert")
    assert await in_force(snapshots) == "works"
    assert await snapshots.revert(clock.now + 1000) is None


async def test_a_change_that_is_confirmed_stays(snapshots: Snapshots, clock: Clock) -> None:
    await put(snapshots, 1)
    await put(snapshots, 2, confirm_within=120)
    await snapshots.confirm(2)
    await snapshots.confirm(2)
    assert await snapshots.revert(clock.now + 1000) is None
    assert await in_force(snapshots) == 2


async def test_only_the_version_in_force_can_be_confirmed(snapshots: Snapshots, clock: Clock) -> None:
    await put(snapshots, 1)
    await put(snapshots, 2, confirm_within=120)
    await put(snapshots, 3)
    with pytest.raises(StaleVersion):
        await snapshots.confirm(2)
    assert await snapshots.expired(clock.now + 120) is not None


async def test_a_deadline_is_honoured_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    async with snapshots_at(tmp_path / "db", clock=clock) as snapshots:
        await put(snapshots, 1)
        await put(snapshots, 2, confirm_within=120)
    async with snapshots_at(tmp_path / "db", clock=clock) as snapshots:
        assert await snapshots.expired(clock.now + 119) is None
        assert await snapshots.revert(clock.now + 120) is not None
        assert await in_force(snapshots) == 1


async def test_further_changes_do_not_confirm_the_first_and_are_undone_with_it(
    snapshots: Snapshots, clock: Clock
) -> None:
    await put(snapshots, 1)
    await put(snapshots, 2, confirm_within=120)
    await put(snapshots, 3)
    assert await snapshots.revert(clock.now + 120) is not None
    assert await in_force(snapshots) == 1


async def test_a_further_change_can_put_the_deadline_off(snapshots: Snapshots, clock: Clock) -> None:
    await put(snapshots, 1)
    await put(snapshots, 2, confirm_within=120)
    clock.now += 100
    await put(snapshots, 3, confirm_within=120)
    assert await snapshots.expired(clock.now + 119) is None
    assert await snapshots.revert(clock.now + 120) is not None
    assert await in_force(snapshots) == 1


async def test_nothing_is_left_to_undo_for_who_went_back_by_himself(snapshots: Snapshots, clock: Clock) -> None:
    await put(snapshots, 1)
    await put(snapshots, 2, confirm_within=120)
    await snapshots.rollback(1, "ann", "no", expected=2)
    assert await snapshots.expired(clock.now + 1000) is None


async def test_the_first_version_has_nothing_to_go_back_to(snapshots: Snapshots, clock: Clock) -> None:
    await put(snapshots, 1, confirm_within=120)
    assert await snapshots.expired(clock.now + 1000) is None


async def test_retention_keeps_the_last_and_what_is_pinned_proven_in_force_or_confirmed(
    tmp_path: Path, clock: Clock
) -> None:
    async with snapshots_at(tmp_path / "db", clock=clock, keep=3) as snapshots:
        for number in range(1, 6):
            await put(snapshots, number)
            if number == 2:
                await snapshots.pin(2)
            if number == 3:
                await snapshots.prove(3)
        await put(snapshots, 6, confirm_within=1000)
        for number in range(7, 12):
            await put(snapshots, number)
        assert list(await values(snapshots)) == [2, 3, 5, 9, 10, 11]
        assert await snapshots.verify() is None
        with pytest.raises(UnknownVersion):
            await snapshots.get(4)
        await snapshots.pin(2, False)
        await snapshots.confirm(11)
        await put(snapshots, 12)
        assert list(await values(snapshots)) == [3, 10, 11, 12]
        assert (await snapshots.get(3)).proven_at == clock.now
        assert await snapshots.verify() is None


async def test_a_version_is_proven_once(snapshots: Snapshots, clock: Clock) -> None:
    await put(snapshots, 1)
    await snapshots.prove(1)
    first = clock.now
    clock.now += 60
    await snapshots.prove(1)
    assert (await snapshots.get(1)).proven_at == first


@pytest.mark.parametrize("change", ["pin", "prove", "get", "confirm"])
async def test_what_is_not_there_cannot_be_asked_for(snapshots: Snapshots, change: str) -> None:
    await put(snapshots, 1)
    with pytest.raises((UnknownVersion, StaleVersion)):
        await getattr(snapshots, change)(7)


async def test_an_old_body_is_upgraded_when_it_comes_back_into_force(tmp_path: Path, clock: Clock) -> None:
    async with snapshots_at(tmp_path / "db", clock=clock) as snapshots:
        await put(snapshots, "old")
        await put(snapshots, "older", confirm_within=60)

    def upgrade(body: dict[str, Any], schema_version: int) -> dict[str, Any]:
        return {"value": f"{body['value']}, upgraded from {schema_version}"}

    async with snapshots_at(tmp_path / "db", clock=clock, schema_version=2, upgrade=upgrade) as snapshots:
        await snapshots.revert(clock.now + 60)
        assert await in_force(snapshots) == "old, upgraded from 1"
        back = await snapshots.rollback(2, "ann", "", expected=3)
        assert (back.document, back.schema_version) == ({"value": "older, upgraded from 1"}, 2)
        assert (await snapshots.get(1)).schema_version == 1


async def test_the_same_words_for_another_schema_are_a_new_version(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        await put(snapshots, 1)
    async with snapshots_at(tmp_path / "db", schema_version=2) as snapshots:
        assert (await put(snapshots, 1)).version == 2
        assert (await put(snapshots, 1)).version == 2


async def test_a_body_that_cannot_be_upgraded_changes_nothing(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        await put(snapshots, 1)
    async with snapshots_at(tmp_path / "db", schema_version=2) as snapshots:
        await put(snapshots, 2)
        with pytest.raises(InvalidConfiguration, match="schema 1"):
            await snapshots.rollback(1, "ann", "", expected=2)
        assert list(await values(snapshots)) == [1, 2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE snapshot SET body = '{}' WHERE version = 1",
        "UPDATE snapshot SET author = 'nobody'",
        "UPDATE snapshot SET parent = 7, pinned = 1",
        "UPDATE snapshot SET rowid = 9 WHERE version = 1",
        "DELETE FROM snapshot",
        "DELETE FROM snapshot WHERE version = 1",
        "INSERT OR REPLACE INTO snapshot SELECT * FROM snapshot WHERE version = 1",
        "INSERT INTO forgotten VALUES (2); DELETE FROM snapshot WHERE version = 2",
        "INSERT INTO forgotten VALUES (3); DELETE FROM snapshot WHERE version = 3",
        "UPDATE head SET current = 17",
    ],
)
async def test_history_cannot_be_rewritten_even_by_sql(snapshots: Snapshots, statement: str) -> None:
    for number in (1, 2, 3):
        await put(snapshots, number)
    await snapshots.pin(2)

    async def rewrite() -> None:
        async with snapshots._database.writing() as connection:
            for one in statement.split(";"):
                await connection.execute(text(one))

    with pytest.raises(IntegrityError):
        await rewrite()
    assert await values(snapshots) == {1: 1, 2: 2, 3: 3}
    assert await snapshots.verify() is None


async def test_the_store_starts_its_snapshots_with_the_schema_it_is_told(tmp_path: Path) -> None:
    for schema_version in (1, 2):
        store = Store(tmp_path / "db", bug, schema_version, upgrade=lambda body, _: body | {"upgraded": True})
        await store.start()
        await store.snapshots.put({"value": schema_version}, by("ann"), expected=schema_version - 1)
        if schema_version == 2:
            back = await store.snapshots.rollback(1, "ann", "", expected=2)
            assert back.document == {"value": 1, "upgraded": True}
        await store.close()
