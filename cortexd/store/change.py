"""What differs between two documents, key by key."""

import re
from collections.abc import Iterator
from typing import Any, TypeGuard, cast

import msgspec

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Change(msgspec.Struct, frozen=True):
    """`before` is UNSET for a key that was added, `after` for one that was removed; JSON leaves them out."""

    path: tuple[str, ...]  # keys, and names of items of lists
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET

    @property
    def key(self) -> str:
        """The path as TOML would write it: `model.goose.keep_alive`, quoted where it must be."""
        return ".".join(part if _BARE.fullmatch(part) else msgspec.json.encode(part).decode() for part in self.path)


def changes(before: Any, after: Any) -> list[Change]:
    """Sorted by path. Items of a list are told apart by their `name` where each has one of its own; the order of such a
    list is a value of its own. Other lists are compared as a whole."""
    return sorted(_changes((), before, after), key=lambda change: change.path)


def _changes(path: tuple[str, ...], before: Any, after: Any) -> Iterator[Change]:
    if _is_object(before) and _is_object(after):
        yield from _within(path, before, after)
    elif (named := _by_name(before)) is not None and (named_after := _by_name(after)) is not None:
        yield from _within(path, named, named_after)
        if [name for name in named if name in named_after] != [name for name in named_after if name in named]:
            yield Change(path, list(named), list(named_after))
    elif _written(before) != _written(after):
        yield Change(path, before, after)


def _within(path: tuple[str, ...], before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    for key in before.keys() | after.keys():
        if key in before and key in after:
            yield from _changes((*path, key), before[key], after[key])
        else:
            yield Change((*path, key), before.get(key, msgspec.UNSET), after.get(key, msgspec.UNSET))


def _by_name(value: object) -> dict[str, Any] | None:
    """The items of a list by their names; None for what is no such list."""
    if not isinstance(value, list):
        return None
    named: dict[str, Any] = {}
    for item in cast(list[object], value):
        name = item.get("name") if _is_object(item) else None
        if not isinstance(name, str) or name in named:
            return None
        named[name] = item
    return named


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _written(value: Any) -> bytes:
    """What tells 1 from 1.0 and from true, which are equal to Python."""
    return msgspec.json.encode(value, order="sorted")
