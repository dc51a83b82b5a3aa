"""One layer of the document against the declarations: every key by itself, so that all that is wrong can be said at once."""

import difflib
import math
import os
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from cortexd.config.document import Document
from cortexd.config.keys import Member, keys, members
from cortexd.config.naming import model_of
from cortexd.config.positions import KeyPath
from cortexd.config.toml_text import key_literal, literal
from cortexd.durations import seconds_of
from cortexd.errors import InvalidConfiguration
from cortexd.sizes import bytes_of

_MOST_PROBLEMS = 100  # after which no further key is looked at
_LONGEST = 60  # characters of a wrong value that are shown
_BEYOND = 2**64  # what is as large is not even written: Python refuses to, from some thousands of digits on


class Count(int):
    """How many an array of sections has."""


class Checked:
    """`values` holds what is right, by path; `problems` one sentence for each thing that is wrong.

    A section that is there has a value too: of an array how many it has, of an optional one True.
    """

    def __init__(self, root: type[Document], where: Callable[[KeyPath], str], *, text: bool = False) -> None:
        """`where` gives the place of a path, or ""; with `text`, values are as flags and variables give them."""
        self._root = root
        self._where = where
        self._text = text
        self.values: dict[KeyPath, Any] = {}
        self.problems: list[str] = []

    def check(self, document: Any) -> None:
        self._section(self._root, document, ())

    def _section(self, section: type[Document], body: Any, path: KeyPath) -> None:
        if not isinstance(body, dict):
            self._wrong(path, f"{_shown(body)} is not a table")
            return
        content = cast("dict[str, Any]", body)
        known = {member.name: member for member in members(section)}
        for name, value in content.items():
            if len(self.problems) >= _MOST_PROBLEMS:
                return
            if name in known:
                self._member(known[name], value, (*path, name))
            else:
                self._say(
                    (*path, name), f"{named((*path, name))} is not a setting; {self._nearest(name, section, path)}"
                )
        for member in known.values():
            if member.default is msgspec.NODEFAULT and member.name not in content:
                self._wrong((*path, member.name), f"missing, it must be {member.allowed}", at=path)

    def _member(self, member: Member, value: Any, path: KeyPath) -> None:
        if member.section is None:
            self._key(member, value, path)
        elif member.repeated and isinstance(value, list | tuple):
            bodies = cast("Sequence[Any]", value)
            self.values[path] = Count(len(bodies))
            for index, body in enumerate(bodies):
                self._section(member.section, body, (*path, index))
        elif member.repeated:
            self._wrong(path, f"{_shown(value)} is not an array of tables; write [[{named(path)}]]")
        elif value is not None or not member.optional:
            self.values[path] = True
            self._section(member.section, value, path)

    def _key(self, member: Member, value: Any, path: KeyPath) -> None:
        read = _of_text(member, value) if self._text and isinstance(value, str) else value
        before = len(self.problems)
        if member.table is not None and isinstance(read, dict):
            key, inner = member.table
            entries = [(name, one, (*path, name)) for name, one in cast("dict[str, Any]", read).items()]
            taken = {self._taken(key, name, name, at): self._taken(inner, one, one, at) for name, one, at in entries}
        else:
            taken = self._taken(member, read, value, path)
        if len(self.problems) == before:
            self.values[path] = taken

    def _taken(self, member: Member, value: Any, written: Any, path: KeyPath) -> Any:
        """The value as it is kept; None where it is wrong, which is said of it as it was written."""
        try:
            return _converted(member, value, named(path), text=self._text)
        except InvalidConfiguration as error:
            self._say(path, error.message)
        except (ValueError, msgspec.ValidationError) as error:
            # A secret that was written in clear is not repeated.
            shown = "this" if member.secret else _shown(written)
            hint = f"; {member.hint}" if member.hint else ""
            self._wrong(path, f"{shown} is not {member.allowed}{hint}" if member.allowed else str(error))

    def _nearest(self, name: str, section: type[Document], path: KeyPath) -> str:
        """A key of this section that is written alike, else one of this name elsewhere."""
        here = [member.name for member in members(section)]
        if near := difflib.get_close_matches(name, here, n=1):
            return f"did you mean {named((*path, near[0]))}?"
        elsewhere = [key.name for key in keys(self._root) if key.path[-1] == name]
        return f"did you mean {elsewhere[0]}?" if elsewhere else f"known are {', '.join(here)}."

    def _wrong(self, path: KeyPath, what: str, *, at: KeyPath | None = None) -> None:
        self._say(path if at is None else at, f"{named(path)}: {what}.")

    def _say(self, path: KeyPath, sentence: str) -> None:
        place = self._where(path)
        self.problems.append(f"{place}: {sentence}" if place else sentence)


def named(path: KeyPath) -> str:
    """A path as people read it: model[1].sampling.top_p, counted from 0."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{key_literal(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def _converted(member: Member, value: Any, name: str, *, text: bool) -> Any:
    """Raises ValueError, msgspec.ValidationError; InvalidConfiguration with a sentence of its own."""
    if member.unit == "s" and isinstance(value, str):
        value = seconds_of(value)
    elif member.unit == "size":
        value = _size(value, name)
    converted = msgspec.convert(value, member.annotation, strict=not text)
    if isinstance(converted, float):
        if not math.isfinite(converted):
            raise ValueError("not a finite number")
        converted += 0.0  # -0.0 and 0.0 are equal, and are to look so
    if any("\0" in one for one in _texts(converted)):
        raise ValueError("no text for a file or a process")
    if member.unit == "target" and isinstance(converted, str):
        model_of(converted)
    return converted


def _texts(value: Any) -> list[str]:
    items = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else (value,)
    return [item for item in items if isinstance(item, str)]


def _of_text(member: Member, text: str) -> Any:
    """What is no single value is written as in TOML, a list also without brackets."""
    is_list = member.allowed.startswith("a list")
    if not (is_list or member.secret or member.table):
        return text
    if text.startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            return text  # which is nothing that may stand here
    if not is_list:
        return text
    separator = os.pathsep if member.unit == "path" else ","
    return [part.strip() for part in text.split(separator) if part.strip()]


def _size(value: Any, name: str) -> Any:
    """What parts of the memory are parts of is known later, but what is no size is refused now. Numbers are bytes."""
    written = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(written, str) and written != "auto":
        bytes_of(written, 0, key=name)
    return written


def _shown(value: Any) -> str:
    match value:
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case int() if abs(value) >= _BEYOND:
            return "so large a number"
        case None:
            return "nothing"
        case _:
            written = literal(value) if isinstance(value, bool | int | float) else repr(str(value))
            return written if len(written) <= _LONGEST else f"{written[: _LONGEST - 1]}…"
