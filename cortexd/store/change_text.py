"""What differs between two documents, as lines for people."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from cortexd.config.document import Settings
from cortexd.config.keys import keys
from cortexd.config.toml_text import literal
from cortexd.store.change import Change

_LONGEST = 200  # characters of one value


def change_lines(changes: Sequence[Change]) -> list[str]:
    """ "model.goose.keep_alive: 5m → 10m", "+ …" for what is new, "- …" for what is gone."""
    return [_line(change) for change in changes]


def _line(change: Change) -> str:
    unit = _units().get(change.path, "") or _units().get((change.path[0], *change.path[2:]), "")
    if change.before is msgspec.UNSET:
        return f"+ {change.key}: {_shown(change.after, unit)}"
    if change.after is msgspec.UNSET:
        return f"- {change.key}: {_shown(change.before, unit)}"
    return f"{change.key}: {_shown(change.before, unit)} → {_shown(change.after, unit)}"


def _units() -> dict[tuple[str, ...], str]:
    """By path, without the names of items in arrays of sections."""
    return {key.path: key.member.unit for key in keys(Settings)}


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
