"""A change to a document, written as the part that changes: JSON Merge Patch (RFC 7396), in which models and aliases go by name."""

from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from cortexd.config.document import Settings
from cortexd.config.keys import members

_ARRAYS = {member.name for member in members(Settings) if member.repeated}  # of sections that have names


def merged(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The document with each key of `patch` in place of its own, and without those that are None there.

    {"model": {"goose": {"keep_alive": "10m"}}} changes the one model of this name, in whatever case, or adds it; None takes it
    away. A list stands for the whole. What comes of it need not be valid.
    """
    by_name = {key for key in _ARRAYS & patch.keys() if _is_table(patch[key])}
    result = _merged(document, {key: value for key, value in patch.items() if key not in by_name})
    for key in by_name:
        result[key] = _merged_by_name(document.get(key), patch[key])
    return result


def _merged(target: Any, patch: Any) -> Any:
    """As RFC 7396 has it, without changing either."""
    if not _is_table(patch):
        return patch
    result = dict(target) if _is_table(target) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _merged_by_name(sections: Any, patch: Mapping[str, Any]) -> list[Any]:
    result = list(cast("list[Any]", sections)) if isinstance(sections, list | tuple) else []
    for name, value in patch.items():
        place = next((index for index, section in enumerate(result) if _is_named(section, name)), len(result))
        if value is None:
            del result[place : place + 1]
        else:
            result[place : place + 1] = [_merged(result[place] if place < len(result) else {"name": name}, value)]
    return result


def _is_named(section: Any, name: str) -> bool:
    own = section.get("name") if _is_table(section) else None
    return isinstance(own, str) and own.lower() == name.lower()


def _is_table(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)
