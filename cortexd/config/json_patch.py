"""RFC 6902: a list of operations that makes another document of one."""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from cortexd.errors import BadRequest, Conflict

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_STRAY_TILDE = re.compile(r"~(?![01])")
_DEEPEST = 64  # parts of a pointer
_MOST_COPIED = 2**24  # bytes of JSON: each of some copies may double what there is


def patched(document: Any, patch: Any) -> Any:
    """The document after each operation in turn; `document` stays as it is.

    Raises BadRequest for what is no patch or finds no place, Conflict where a `test` does not hold.
    """
    if not isinstance(patch, list):
        raise BadRequest("A JSON patch is an array of operations.")
    patching = _Patching(copy.deepcopy(document))
    try:
        for number, operation in enumerate(cast("list[Any]", patch)):
            patching.apply(operation, f"operation {number}")
    except RecursionError:
        raise BadRequest("The patch nests the document too deeply.") from None
    return patching.document


class _Patching:
    def __init__(self, document: Any) -> None:
        self.document = document
        self._copied = 0
        self._operations: dict[str, Callable[[Mapping[str, Any], str], None]] = {
            "add": self._add,
            "remove": self._remove,
            "replace": self._replace,
            "move": self._move,
            "copy": self._copy,
            "test": self._test,
        }

    def apply(self, operation: Any, where: str) -> None:
        fields = cast("dict[str, Any]", operation) if isinstance(operation, dict) else {}
        name = fields.get("op")
        act = self._operations.get(name) if isinstance(name, str) else None
        if act is None:
            raise BadRequest(f"{where}: op must be one of {', '.join(self._operations)}.")
        act(fields, where)

    def _add(self, fields: Mapping[str, Any], where: str) -> None:
        self._put(_pointer(fields, "path", where), _value(fields, where), where)

    def _remove(self, fields: Mapping[str, Any], where: str) -> None:
        self._take(_pointer(fields, "path", where), where)

    def _replace(self, fields: Mapping[str, Any], where: str) -> None:
        path, value = _pointer(fields, "path", where), _value(fields, where)
        self._at(path, where)
        if not path:
            self.document = value
            return
        container = self._at(path[:-1], where)
        container[_key(container, path, where)] = value

    def _move(self, fields: Mapping[str, Any], where: str) -> None:
        source, path = _pointer(fields, "from", where), _pointer(fields, "path", where)
        if source == path:
            self._at(source, where)
            return
        if path[: len(source)] == source:
            raise BadRequest(f"{where}: what is moved cannot go into itself.")
        self._put(path, self._take(source, where), where)

    def _copy(self, fields: Mapping[str, Any], where: str) -> None:
        value = self._at(_pointer(fields, "from", where), where)
        self._copied += len(msgspec.json.encode(value))
        if self._copied > _MOST_COPIED:
            raise BadRequest(f"{where}: the patch copies more than {_MOST_COPIED} bytes.")
        self._put(_pointer(fields, "path", where), copy.deepcopy(value), where)

    def _test(self, fields: Mapping[str, Any], where: str) -> None:
        path, value = _pointer(fields, "path", where), _value(fields, where)
        if not _equal(self._at(path, where), value):
            raise Conflict(f"{where}: {fields['path']!r} is not what the patch was made for.")

    def _at(self, path: list[str], where: str) -> Any:
        found = self.document
        for depth in range(1, len(path) + 1):
            found = found[_key(found, path[:depth], where)]
        return found

    def _put(self, path: list[str], value: Any, where: str) -> None:
        if not path:
            self.document = value
            return
        container = self._at(path[:-1], where)
        if isinstance(container, list):
            items = cast("list[Any]", container)
            items.insert(_index(path, len(items), where), value)
        elif isinstance(container, dict):
            container[path[-1]] = value
        else:
            raise _nowhere(path, where)

    def _take(self, path: list[str], where: str) -> Any:
        if not path:
            raise BadRequest(f"{where}: the whole document cannot be taken away.")
        container = self._at(path[:-1], where)
        key = _key(container, path, where)
        return container.pop(key)


def _key(container: Any, path: list[str], where: str) -> str | int:
    """Of what is there in a container, by the last part of its path."""
    if isinstance(container, dict) and path[-1] in container:
        return path[-1]
    if isinstance(container, list) and (index := _index(path, -1, where)) < len(cast("list[Any]", container)):
        return index
    raise _nowhere(path, where)


def _index(path: list[str], end: int, where: str) -> int:
    """Into an array, up to `end`, which "-" means; negative: there is no such bound, and no "-"."""
    if path[-1] == "-" and end >= 0:
        return end
    if not _INDEX.fullmatch(path[-1]) or int(path[-1]) > end >= 0:
        raise _nowhere(path, where)
    return int(path[-1])


def _pointer(fields: Mapping[str, Any], name: str, where: str) -> list[str]:
    """RFC 6901."""
    written = fields.get(name)
    if not isinstance(written, str) or (written and not written.startswith("/")) or _STRAY_TILDE.search(written):
        raise BadRequest(f'{where}: {name} must be a JSON pointer, such as "/lifecycle/keep_alive".')
    if written.count("/") > _DEEPEST:
        raise BadRequest(f"{where}: {name} leads too deeply.")
    return [part.replace("~1", "/").replace("~0", "~") for part in written.split("/")[1:]]


def _value(fields: Mapping[str, Any], where: str) -> Any:
    if "value" not in fields:
        raise BadRequest(f"{where}: value is missing.")
    return copy.deepcopy(fields["value"])


def _nowhere(path: list[str], where: str) -> BadRequest:
    shown = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in path)
    return BadRequest(f"{where}: there is nothing at {shown!r}.")


def _equal(one: Any, other: Any) -> bool:
    """As JSON has it: 1 is 1.0, and true is neither."""
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(one, list) and isinstance(other, list):
        ones, others = cast("list[Any]", one), cast("list[Any]", other)
        return len(ones) == len(others) and all(map(_equal, ones, others))
    return isinstance(one, bool) == isinstance(other, bool) and one == other
