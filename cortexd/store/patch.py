"""What turns one document into another, for machines: JSON Patch (RFC 6902)."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, TypeGuard

import msgspec

Operation = dict[str, Any]  # {"op": "replace", "path": "/model/0/pin", "value": true}


def json_patch(before: Any, after: Any) -> list[Operation]:
    """To be applied in order. Items of a list that have a `name` are the same where their names are."""
    return list(_patch("", before, after))


def _patch(path: str, before: Any, after: Any) -> Iterator[Operation]:
    if _is_object(before) and _is_object(after):
        yield from _of_objects(path, before, after)
    elif _is_list(before) and _is_list(after):
        yield from _of_lists(path, before, after)
    elif _written(before) != _written(after):
        yield {"op": "replace", "path": path, "value": after}


def _of_objects(path: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Operation]:
    for key in sorted(before.keys() | after.keys()):
        place = f"{path}/{_escaped(key)}"
        if key not in after:
            yield {"op": "remove", "path": place}
        elif key not in before:
            yield {"op": "add", "path": place, "value": after[key]}
        else:
            yield from _patch(place, before[key], after[key])


def _of_lists(path: str, before: list[Any], after: list[Any]) -> Iterator[Operation]:
    """From the end to the beginning, so that what is to come is still at its old index."""
    matcher = SequenceMatcher(
        None, [_identity(item) for item in before], [_identity(item) for item in after], autojunk=False
    )
    for _, start, end, new_start, new_end in reversed(matcher.get_opcodes()):
        common = min(end - start, new_end - new_start)
        for index in reversed(range(start + common, end)):
            yield {"op": "remove", "path": f"{path}/{index}"}
        for index in range(common, new_end - new_start):
            yield {"op": "add", "path": f"{path}/{start + index}", "value": after[new_start + index]}
        for index in reversed(range(common)):
            yield from _patch(f"{path}/{start + index}", before[start + index], after[new_start + index])


def _identity(item: Any) -> Any:
    name = item.get("name") if _is_object(item) else None
    return name if isinstance(name, str) else _written(item)


def _escaped(key: str) -> str:
    """As RFC 6901 has keys in paths."""
    return key.replace("~", "~0").replace("/", "~1")


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _written(value: Any) -> bytes:
    """What tells 1 from 1.0 and from true, which are equal to Python."""
    return msgspec.json.encode(value, order="sorted")
