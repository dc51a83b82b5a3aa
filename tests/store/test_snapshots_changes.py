from pathlib import Path

import msgspec
from hypothesis import given, strategies

from cortexd.store.change import Change, changes
from cortexd.store.snapshot import canonical
from tests.store.histories import by, snapshots_at

KEYS = strategies.sampled_from(["name", "a", "b"])
JSON = strategies.recursive(
    strategies.sampled_from([0, 1, 1.0, True, None, "a", "b"]),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


def told(before: object, after: object) -> list[tuple[str, object, object]]:
    return [(change.key, change.before, change.after) for change in changes(before, after)]


def test_changes_are_told_key_by_key() -> None:
    before = {"server": {"port": 1, "host": "a"}, "gone": 1}
    after = {"server": {"port": 2, "host": "a", "uds": None}}
    assert told(before, after) == [
        ("gone", 1, msgspec.UNSET),
        ("server.port", 1, 2),
        ("server.uds", msgspec.UNSET, None),
    ]


def test_models_are_told_apart_by_their_names() -> None:
    before = {"model": [{"name": "goose", "pin": False}, {"name": "swan"}]}
    after = {"model": [{"name": "duck"}, {"name": "goose", "pin": True}]}
    assert told(before, after) == [
        ("model.duck", msgspec.UNSET, {"name": "duck"}),
        ("model.goose.pin", False, True),
        ("model.swan", {"name": "swan"}, msgspec.UNSET),
    ]


def test_another_order_of_names_is_a_change() -> None:
    goose, swan = {"name": "goose"}, {"name": "swan"}
    assert told({"model": [goose, swan]}, {"model": [swan, goose]}) == [("model", ["goose", "swan"], ["swan", "goose"])]


def test_a_list_without_names_or_with_one_name_twice_is_one_value() -> None:
    assert told({"a": [1, 2]}, {"a": [1, 3]}) == [("a", [1, 2], [1, 3])]
    twice = [{"name": "goose"}, {"name": "goose"}]
    assert told({"a": twice}, {"a": twice[:1]}) == [("a", twice, twice[:1])]


def test_a_key_is_written_as_toml_would_write_it() -> None:
    assert Change(("model", "rwkv7-0.4b", "keep_alive")).key == 'model."rwkv7-0.4b".keep_alive'


def test_a_change_as_json_leaves_out_what_was_not_there() -> None:
    assert msgspec.json.encode(changes({}, {"a": None})) == b'[{"path":["a"],"after":null}]'


@given(JSON, JSON)
def test_there_are_changes_exactly_where_documents_are_written_differently(before: object, after: object) -> None:
    assert bool(changes(before, after)) == (canonical({"": before}) != canonical({"": after}))


@given(JSON, JSON)
def test_the_way_back_is_the_same_way(before: object, after: object) -> None:
    there = [(change.path, repr(change.before), repr(change.after)) for change in changes(before, after)]
    back = [(change.path, repr(change.after), repr(change.before)) for change in changes(after, before)]
    assert there == back


async def test_a_secret_is_told_as_the_reference_it_is(tmp_path: Path) -> None:
    async with snapshots_at(tmp_path / "db") as snapshots:
        for secret in ({"credential": "gpt-key"}, {"file": "/run/key"}):
            body = {"model": [{"name": "gpt", "remote": {"api_key": secret}}]}
            await snapshots.put(body, by("ann"), expected=None)
        changed = await snapshots.diff(1, 2)
    assert [(change.key, change.before, change.after) for change in changed] == [
        ("model.gpt.remote.api_key.credential", "gpt-key", msgspec.UNSET),
        ("model.gpt.remote.api_key.file", msgspec.UNSET, "/run/key"),
    ]
