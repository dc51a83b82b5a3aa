"""Versions of states: numbers never repeat, nothing is ever gone from the history, and equal content is no new version."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.store.states import StateContent, States, StateVersion
from tests.store.stores import opened


def content(number: int) -> StateContent:
    return StateContent(content_hash=f"{number:064x}", layers=3, heads=2, size=64, dtype="BF16", bytes=1000 + number)


def told(versions: list[StateVersion]) -> list[tuple[str, int, str, bool]]:
    return [(each.name, each.version, each.content_hash[-1], each.deleted) for each in versions]


async def test_a_version_is_kept_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        put = await States(database, lambda: 17.5).put("poet", content(1), "ada")
    expected = StateVersion(
        name="poet",
        version=1,
        content_hash=f"{1:064x}",
        layers=3,
        heads=2,
        size=64,
        dtype="BF16",
        bytes=1001,
        author="ada",
        created_at=17.5,
        deleted=False,
    )
    assert put == expected
    assert str(put) == "poet@1"
    async with opened(tmp_path / "db") as database:
        assert await States(database).list() == [expected]


async def test_numbers_go_on_after_a_deletion_and_the_history_stays(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        states = States(database)
        await states.put("poet", content(1), "ada")
        await states.put("poet", content(2), "ada")
        await states.put("muse", content(2), "ada")
        assert await states.delete("poet") == 2
        assert await states.delete("poet") == 0
        assert (await states.put("poet", content(2), "ada")).version == 3
        assert told(await states.list()) == [
            ("muse", 1, "2", False),
            ("poet", 1, "1", True),
            ("poet", 2, "2", True),
            ("poet", 3, "2", False),
        ]
        assert told(await states.list("muse")) == [("muse", 1, "2", False)]
        assert await states.list("nobody") == []


async def test_writers_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        states = States(database)
        put = await asyncio.gather(*(states.put("poet", content(number), "ada") for number in range(9)))
        assert sorted(version.version for version in put) == list(range(1, 10))


Action = tuple[str, str, int]
ACTIONS = st.lists(st.tuples(st.sampled_from(["put", "put", "delete"]), st.sampled_from("ab"), st.integers(0, 2)))


async def play(path: Path, actions: list[Action]) -> None:
    model: list[tuple[str, int, str, bool]] = []
    async with opened(path) as database:
        states = States(database)
        for action, name, number in actions:
            mine = [row for row in model if row[0] == name]
            if action == "delete":
                assert await states.delete(name) == sum(not row[3] for row in mine)
                model = [(*row[:3], True) if row[0] == name else row for row in model]
                continue
            version = await states.put(name, content(number), "ada")
            if mine and mine[-1][2:] == (str(number), False):
                assert version.version == mine[-1][1]
            else:
                model.append((name, len(mine) + 1, str(number), False))
                assert told([version]) == model[-1:]
        assert told(await states.list()) == sorted(model)


@settings(max_examples=40)
@given(ACTIONS)
def test_whatever_is_put_and_deleted_is_told_as_it_was(actions: list[Action]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory) / "db", actions))
