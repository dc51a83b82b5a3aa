"""What differs between two documents, as lines for people."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast

import msgspec

from cortexd.config.document import Settings
from cortexd.config.keys import Key, keys, members
from cortexd.config.toml_text import literal
from cortexd.store.change import Change

_LONGEST = 200  # characters of one value
_ARRAYS = {member.name for member in members(Settings) if member.repeated}  # of sections that have names


def change_lines(changes: Sequence[Change]) -> list[str]:
    """ "model.goose.keep_alive: 5m → 10m", "+ …" for what is new, "- …" for what is gone."""
    return [line for change in changes for line in _lines(change)]


def _lines(change: Change) -> Iterator[str]:
    if change.before is msgspec.UNSET:
        yield from _whole("+", change.path, change.key, change.after)
    elif change.after is msgspec.UNSET:
        yield from _whole("-", change.path, change.key, change.before)
    else:
        key = _known().get(_plain(change.path))
        unit = key.member.unit if key is not None else ""
        yield f"{change.key}: {_shown(change.before, unit)} → {_shown(change.after, unit)}"


def _whole(sign: str, path: tuple[str, ...], name: str, value: Any) -> Iterator[str]:
    """Of a new section, a line for each of its keys that is not at its default."""
    key = _known().get(_plain(path))
    if key is not None or not isinstance(value, dict):
        yield f"{sign} {name}: {_shown(value, key.member.unit if key is not None else '')}"
        return
    lines = list(_within(sign, path, name, cast("dict[str, Any]", value))) if sign == "+" else []
    yield from lines or [f"{sign} {name}"]


def _within(sign: str, path: tuple[str, ...], name: str, section: dict[str, Any]) -> Iterator[str]:
    for inner, value in section.items():
        here, key = (*path, inner), _known().get(_plain((*path, inner)))
        if key is None and isinstance(value, dict):
            yield from _within(sign, here, f"{name}.{inner}", cast("dict[str, Any]", value))
        elif inner != "name" and (key is None or _json(value) != _json(_default(key))):
            yield f"{sign} {name}.{inner}: {_shown(value, key.member.unit if key is not None else '')}"


def _default(key: Key) -> Any:
    return None if key.member.default is msgspec.NODEFAULT else key.member.default


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _plain(path: tuple[str, ...]) -> tuple[str, ...]:
    """Without the name of the item, where the path leads into an array of sections."""
    return (path[0], *path[2:]) if path[0] in _ARRAYS else path


@cache
def _known() -> dict[tuple[str, ...], Key]:
    return {key.path: key for key in keys(Settings)}


def _shown(value: Any, unit: str) -> str:
    if value is None:
        return "not set"
    written = literal(_said(value), unit)
    written = written.strip('"') if unit == "s" else written
    return written if len(written) <= _LONGEST else f"{written[: _LONGEST - 1]}…"


def _said(value: Any) -> Any:
    """Without what says nothing: null, and tables and lists of that."""
    match value:
        case dict():
            content = {name: _said(inner) for name, inner in cast("dict[str, Any]", value).items()}
            return {name: inner for name, inner in content.items() if inner not in (None, {}, [])}
        case list():
            return [_said(inner) for inner in cast("list[Any]", value) if inner is not None]
        case _:
            return value
