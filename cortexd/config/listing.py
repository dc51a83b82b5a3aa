"""The settings in force as TOML, which read again gives the same settings."""

from collections.abc import Iterator
from typing import Any

from cortexd.config.checking import named
from cortexd.config.document import Document
from cortexd.config.keys import Member, members
from cortexd.config.positions import KeyPath
from cortexd.config.reading import Reading
from cortexd.config.toml_text import literal

_COLUMN = 56  # where origins begin


def listing(reading: Reading, *, origins: bool = False) -> str:
    """Every key that has a value; with `origins`, behind each where it is from."""
    lines: list[str] = []
    for path, member, value in _walk(reading.settings, ()):
        if member.section is not None:
            header = ".".join(str(part) for part in path if not isinstance(part, int))
            lines += ["", f"[[{header}]]" if member.repeated else f"[{header}]"]
        elif value is not None:
            line = f"{member.name} = {literal(value, member.unit)}"
            lines.append(f"{line:{_COLUMN}}  # {reading.origins[path]}" if origins else line)
    return "\n".join([*lines, ""]).lstrip("\n")


def entries(reading: Reading) -> dict[str, dict[str, Any]]:
    """Each key with its value and its origin: {"server.port": {"value": 11435, "origin": "default"}}."""
    return {
        named(path): {"value": value, "origin": reading.origins[path]}
        for path, member, value in _walk(reading.settings, ())
        if member.section is None
    }


def _walk(section: Document, path: KeyPath) -> Iterator[tuple[KeyPath, Member, Any]]:
    """Keys before sections, as TOML wants them; a section comes as itself, before what is in it."""
    for member in sorted(members(type(section)), key=lambda member: member.section is not None):
        value, here = getattr(section, member.name), (*path, member.name)
        if member.section is None:
            yield here, member, value
        elif member.repeated:
            for index, one in enumerate(value):
                yield (*here, index), member, one
                yield from _walk(one, (*here, index))
        elif value is not None:
            yield here, member, value
            yield from _walk(value, here)
