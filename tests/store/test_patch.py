"""A patch turns one document into the other, and says no more than must be said."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies

from cortexd.store.patch import Operation, json_patch
from cortexd.store.snapshot import canonical

KEYS = strategies.sampled_from(["name", "a", "b/c", "~", "0", ""])
JSON = strategies.recursive(
    strategies.sampled_from([0, 1, 1.0, True, None, "a", "b"]),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def applied(document: Any, patch: list[Operation]) -> Any:
    """As RFC 6902 has it, for the three operations that we use."""
    whole = {"": copy.deepcopy(document)}
    for operation in patch:
        holder: Any = whole
        *parts, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")]
        for part in parts:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        place: Any = int(last) if isinstance(holder, list) else last
        match operation["op"]:
            case "add" if isinstance(holder, list):
                assert 0 <= place <= len(holder)
                holder.insert(place, operation["value"])
            case "add":
                holder[place] = operation["value"]
            case "replace":
                holder[place]  # must be there
                holder[place] = operation["value"]
            case "remove":
                del holder[place]
            case other:
                raise AssertionError(other)
    return whole[""]


@given(JSON, JSON)
@example([1, 2, 3], [])
@example([{"name": "a", "b": 1}, {"name": "b"}], [{"name": "b"}, {"name": "a", "b": 2}])
def test_a_patch_turns_one_document_into_the_other(before: Any, after: Any):
    assert canonical(applied(before, json_patch(before, after))) == canonical(after)


@given(JSON)
def test_nothing_is_said_of_what_is_equal(document: Any):
    assert json_patch(document, copy.deepcopy(document)) == []


@given(JSON, JSON)
def test_a_patch_is_json_and_leaves_the_documents_as_they_are(before: Any, after: Any):
    documents = canonical([before, after])
    patch = json_patch(before, after)
    assert canonical(msgspec.json.decode(msgspec.json.encode(patch))) == canonical(patch)
    assert canonical([before, after]) == documents


GOOSE, SWAN, DUCK = ({"name": name, "pin": False} for name in ("goose", "swan", "duck"))


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
        ({"a": 1}, 1, [{"op": "replace", "path": "", "value": 1}]),
        ({"a~b/c": 1}, {}, [{"op": "remove", "path": "/a~0b~1c"}]),
        ([GOOSE, SWAN, DUCK], [SWAN, DUCK], [{"op": "remove", "path": "/0"}]),
        ([SWAN, DUCK], [SWAN, GOOSE, DUCK], [{"op": "add", "path": "/1", "value": GOOSE}]),
        (
            [GOOSE, SWAN, DUCK],
            [{**SWAN, "pin": True}, DUCK],
            [{"op": "replace", "path": "/1/pin", "value": True}, {"op": "remove", "path": "/0"}],
        ),
        ({"to": {"goose@2": 95}}, {"to": {"goose@2": 90, "goose@3": 10}}, [
            {"op": "replace", "path": "/to/goose@2", "value": 90},
            {"op": "add", "path": "/to/goose@3", "value": 10},
        ]),
    ],
)  # fmt: skip
def test_no_more_is_said_than_must_be(before: Any, after: Any, patch: list[Operation]):
    assert json_patch(before, after) == patch
