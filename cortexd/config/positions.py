"""On which line of a TOML file each table and key begins.

Neither tomllib nor tomlkit says so. But every statement of TOML ends with a line, and none that ends too early is valid:
so the file is cut where lines first make up a valid document, and tomllib reads each piece.
"""

import tomllib
from typing import Any, cast

KeyPath = tuple[str | int, ...]

_EFFORT = 2**21  # characters that are read in vain before the rest of a file is left without lines: a statement of many
#                  lines is read again at each of them


def positions(text: str) -> dict[KeyPath, int]:
    """Lines, counted from 1, by paths such as ("model", 1, "sampling", "top_p"); `text` is valid TOML."""
    found: dict[KeyPath, int] = {}
    last: dict[KeyPath, int] = {}  # path of an array of tables → index of its last one
    table: KeyPath = ()
    pending, begun, effort = "", 1, 0
    for number, line in enumerate(text.split("\n"), 1):
        begun = begun if pending else number
        pending += f"{line}\n"
        try:
            statement = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            effort += len(pending)
            if effort > _EFFORT:
                break
            continue
        header = pending.lstrip()
        pending = ""
        if header.startswith("["):
            table = _table(statement, last, repeated=header.startswith("[["))
            statement = {}
            for length in range(1, len(table) + 1):
                found.setdefault(table[:length], begun)
        _note(statement, table, begun, found)
    return found


def _table(header: dict[str, Any], last: dict[KeyPath, int], *, repeated: bool) -> KeyPath:
    """The path of the table that a header opens; a table in an array is in its last one."""
    names: list[str] = []
    inner: Any = header
    while isinstance(inner, dict) and inner:
        ((name, inner),) = cast("dict[str, Any]", inner).items()
        names.append(name)
    path: KeyPath = ()
    for position, name in enumerate(names, 1):
        path = (*path, name)
        if repeated and position == len(names):
            last[path] = last.get(path, -1) + 1
        if path in last:
            path = (*path, last[path])
    return path


def _note(value: Any, path: KeyPath, line: int, found: dict[KeyPath, int]) -> None:
    if path:
        found.setdefault(path, line)
    if isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            _note(inner, (*path, name), line, found)
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[Any]", value)):
            _note(inner, (*path, index), line, found)
