"""RFC 6902: examples of its appendix, its laws, and what is no patch."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.config.json_patch import patched
from cortexd.errors import BadRequest, Conflict
from cortexd.store.patch import json_patch

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "~", "/", "", "b"]), inner),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "~1", "/", "", "b"]), VALUES)
POINTERS = st.lists(st.sampled_from(["a", "~0", "~1", "", "0", "1", "-", "b"]), max_size=3).map(
    lambda parts: "".join(f"/{part}" for part in parts)
)
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]), "path": POINTERS},
    optional={"from": POINTERS, "value": VALUES},
)


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_that_was_computed_leads_where_it_should(before: Any, after: Any) -> None:
    assert msgspec.json.encode(patched(before, json_patch(before, after)), order="sorted") == msgspec.json.encode(
        after, order="sorted"
    )


@given(DOCUMENTS, st.lists(OPERATIONS, max_size=6))
def test_no_patch_changes_the_document_it_is_given_or_fails_otherwise_than_it_says(document: Any, patch: Any) -> None:
    before = copy.deepcopy((document, patch))
    try:
        result = patched(document, patch)
        msgspec.json.encode(result)
    except (BadRequest, Conflict):
        pass
    assert (document, patch) == before


@given(DOCUMENTS, POINTERS, VALUES)
def test_what_is_added_is_there_and_is_gone_when_it_is_removed(document: Any, path: str, value: Any) -> None:
    try:
        added = patched(document, [{"op": "add", "path": path, "value": value}])
    except BadRequest:
        return
    if path.endswith("/-") or not path:
        return
    assert patched(added, [{"op": "test", "path": path, "value": value}]) == added
    removed = patched(added, [{"op": "remove", "path": path}])
    assert patched(removed, [{"op": "add", "path": path, "value": value}]) == added


@pytest.mark.parametrize(
    ("document", "operation", "result"),
    [
        ({"foo": ["bar", "baz"]}, {"op": "add", "path": "/foo/1", "value": "qux"}, {"foo": ["bar", "qux", "baz"]}),
        ({"foo": ["bar"]}, {"op": "add", "path": "/foo/-", "value": [1]}, {"foo": ["bar", [1]]}),
        ({"foo": ["bar", "qux", "baz"]}, {"op": "remove", "path": "/foo/1"}, {"foo": ["bar", "baz"]}),
        ({"foo": {"a": 1, "b": 2}, "q": {}}, {"op": "move", "from": "/foo/a", "path": "/q/a"}, {"foo": {"b": 2}, "q": {"a": 1}}),
        ({"foo": ["all", "cows", "eat"]}, {"op": "move", "from": "/foo/0", "path": "/foo/2"}, {"foo": ["cows", "eat", "all"]}),
        ({"a": {"b": 1}}, {"op": "copy", "from": "/a", "path": "/a/c"}, {"a": {"b": 1, "c": {"b": 1}}}),
        ({"/": 9, "~1": 10}, {"op": "replace", "path": "/~01", "value": 11}, {"/": 9, "~1": 11}),
        ({"/": 9}, {"op": "test", "path": "/~1", "value": 9.0}, {"/": 9}),
        ({"a": 1}, {"op": "replace", "path": "", "value": {"b": 2}}, {"b": 2}),
        ({"a": None}, {"op": "test", "path": "/a", "value": None}, {"a": None}),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/a"}, {"a": 1}),
    ],
)  # fmt: skip
def test_examples_come_out_as_in_the_standard(document: Any, operation: Any, result: Any) -> None:
    assert patched(document, [operation]) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "/nope/b", "value": 1},
        {"op": "add", "path": "/list/3", "value": 1},
        {"op": "add", "path": "/list/01", "value": 1},
        {"op": "add", "path": "/list/٢", "value": 1},
        {"op": "add", "path": "/list/" + "9" * 5000, "value": 1},
        {"op": "add", "path": "/list/0/x", "value": 1},
        {"op": "add", "path": "list", "value": 1},
        {"op": "add", "path": "/~2", "value": 1},
        {"op": "add", "path": "/x"},
        {"op": "remove", "path": "/nope"},
        {"op": "remove", "path": "/list/-"},
        {"op": "remove", "path": ""},
        {"op": "remove", "path": "/list/0/x"},
        {"op": "replace", "path": "/nope", "value": 1},
        {"op": "move", "from": "/table", "path": "/table/inner"},
        {"op": "move", "path": "/table"},
        {"op": "copy", "from": "/nope", "path": "/x"},
        {"op": "test", "path": "/nope", "value": 1},
        {"op": "merge", "path": "/list"},
        {"op": ["add"], "path": "/list"},
        {"path": "/list"},
        "add",
        None,
    ],
)
def test_what_is_no_patch_is_said_to_be_none(operation: Any) -> None:
    with pytest.raises(BadRequest, match="operation 1"):
        patched({"list": [1, 2], "table": {}}, [{"op": "test", "path": "/list/0", "value": 1}, operation])


@pytest.mark.parametrize("value", [True, "1", [1], None, 1.5])
def test_a_test_tells_apart_what_json_tells_apart(value: Any) -> None:
    with pytest.raises(Conflict, match="operation 0: '/a'"):
        patched({"a": 1}, [{"op": "test", "path": "/a", "value": value}])


def test_a_patch_that_nests_without_end_is_refused() -> None:
    deep = "/a" * 60
    nested: list[Any] = [{"op": "add", "path": "/a" * (n + 1), "value": {}} for n in range(60)]
    nested += [{"op": "copy", "from": "/a", "path": f"{deep}/a"}] * 20
    with pytest.raises(BadRequest, match=r"deeply|copies"):
        patched({}, nested)
    with pytest.raises(BadRequest, match="deeply"):
        patched({}, [{"op": "add", "path": "/a" * 65, "value": {}}])
    with pytest.raises(BadRequest, match="array"):
        patched({}, {"op": "add"})
