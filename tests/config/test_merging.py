"""A part of a document changes that part, and nothing else."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.config import Settings, canonical, settings_from_document
from cortexd.config.merging import merged
from tests.config.settings_strategy import settings

KEYS = st.sampled_from(["a", "b", "c"])
JSON = st.recursive(
    st.sampled_from([0, True, None, "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)
TABLES = st.dictionaries(KEYS, JSON, max_size=3)
WITHOUT_NULL = st.dictionaries(
    KEYS,
    st.recursive(
        st.sampled_from([0, True, "x"]) | st.lists(st.none() | st.integers(), max_size=2),
        lambda inner: st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=10,
    ),
)
GOOSE = {"name": "goose", "pin": True, "limits": {"max_tokens": 5}}
SWAN = {"name": "swan"}


def patch_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """One that turns the one into the other, which has no None in a table."""
    patch: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict):
            patch[key] = patch_between(old if isinstance(old, dict) else {}, value)
        elif key not in before or old is not value:
            patch[key] = value
    return patch


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [  # of appendix A of the RFC, those that are tables
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_tables_are_merged_as_the_standard_says(document: Any, patch: Any, result: Any):
    assert merged(document, patch) == result


@given(WITHOUT_NULL, WITHOUT_NULL)
def test_any_document_is_one_patch_away(before: dict[str, Any], after: dict[str, Any]):
    assert merged(before, patch_between(before, after)) == after


@given(TABLES, TABLES)
def test_a_patch_said_twice_is_said_once_and_changes_no_argument(document: dict[str, Any], patch: dict[str, Any]):
    arguments = copy.deepcopy((document, patch))
    once = merged(document, patch)
    assert merged(once, patch) == once
    assert (document, patch) == arguments
    assert merged(document, {}) == document


@pytest.mark.parametrize(
    ("patch", "models"),
    [
        ({"goose": {"pin": False}}, [{**GOOSE, "pin": False}, SWAN]),
        ({"Goose": {"limits": {"max_tokens": None}}}, [{"name": "goose", "pin": True, "limits": {}}, SWAN]),
        ({"goose": None}, [SWAN]),
        ({"duck": None}, [GOOSE, SWAN]),
        ({"duck": {"pin": True}, "swan": None}, [GOOSE, {"name": "duck", "pin": True}]),
        ({"duck": {"template": None}}, [GOOSE, SWAN, {"name": "duck"}]),
        ({"swan": {"name": "mute swan"}}, [GOOSE, {"name": "mute swan"}]),
        ({}, [GOOSE, SWAN]),
        ([SWAN], [SWAN]),
    ],
)
def test_models_are_changed_added_and_taken_away_by_name(patch: Any, models: list[Any]):
    document = {"model": [GOOSE, SWAN], "server": {"port": 1}}
    before = copy.deepcopy(document)
    assert merged(document, {"model": patch}) == {"model": models, "server": {"port": 1}}
    assert document == before


def test_a_first_alias_is_added_and_its_weights_are_changed_one_by_one():
    first = merged({}, {"alias": {"chat": {"to": {"goose@2": 95, "goose@3": 5}}}})
    assert first == {"alias": [{"name": "chat", "to": {"goose@2": 95, "goose@3": 5}}]}
    second = merged(first, {"alias": {"chat": {"to": {"goose@2": None, "goose@3": 100}}}})
    assert second == {"alias": [{"name": "chat", "to": {"goose@3": 100}}]}
    assert merged(second, {"alias": {"chat": {"to": "goose"}}}) == {"alias": [{"name": "chat", "to": "goose"}]}


def test_what_is_no_section_is_left_to_those_who_check():
    assert merged({"model": [3, {}]}, {"model": {"goose": 4, "None": None}}) == {"model": [3, {}, 4]}


@given(settings(), settings())
def test_the_sections_of_one_document_put_over_another_give_that_document(one: Settings, other: Settings):
    before, after = (msgspec.json.decode(canonical(each)) for each in (one, other))
    by_name = {
        array: dict.fromkeys(
            {section["name"] for section in before[array]} - {section["name"] for section in after[array]}
        )
        | {section["name"]: section for section in after[array]}
        for array in ("model", "alias")
    }
    patched = merged(merged(before, after | {"model": [], "alias": []}), by_name)
    assert settings_from_document(patched) == other
