"""Where values come from: the file, the environment, flags."""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cortexd.config.document import Document
from cortexd.config.keys import Key, keys
from cortexd.config.positions import KeyPath, positions
from cortexd.errors import InvalidConfiguration

_PREFIX = "CORTEXD_"
_LINE = "\n"
_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")  # as tomllib ends its sentences


class Layer(msgspec.Struct, kw_only=True):
    """A part of the document from one source."""

    document: Mapping[str, Any]
    where: Callable[[KeyPath], str] = lambda _: (
        ""
    )  # a path's place: "/etc/cortexd/cortexd.toml:3"; "" where it has none
    text: bool = False  # values are as flags and variables give them
    problems: list[str] = []


def of_file(file: Path) -> Layer:
    """Raises InvalidConfiguration where there is no TOML to read."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidConfiguration(f"{file} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InvalidConfiguration(f"{file}: not valid TOML, which is in UTF-8: {error}.") from error
    return of_toml(text, str(file))


def of_toml(text: str, name: str) -> Layer:
    """What is in a file of this name. Raises InvalidConfiguration."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        at = _AT.search(str(error))
        place = f"{name}:{at[1] or text.count(_LINE) + 1}" if at else name
        raise InvalidConfiguration(f"{place}: not valid TOML: {_AT.sub('', str(error))}.") from error
    lines = positions(text)

    def where(path: KeyPath) -> str:
        while path and path not in lines:
            path = path[:-1]
        return f"{name}:{lines[path]}" if path else name

    return Layer(document=document, where=where)


def of_document(root: type[Document], document: Mapping[str, Any], name: str) -> Layer:
    """A document that has every key, `name`d as the origin of those that are not at their defaults."""
    defaults: dict[tuple[str, ...], Any] = {
        key.path: msgspec.to_builtins(key.member.default) for key in _defaulted(root)
    }

    def where(path: KeyPath) -> str:
        value: Any = document
        for part in path:
            value = value[part]
        plain = tuple(part for part in path if isinstance(part, str))
        return "" if plain in defaults and defaults[plain] == value else name

    return Layer(document=document, where=where)


def of_environment(root: type[Document], environment: Mapping[str, str]) -> Layer:
    """Every variable such as CORTEXD_SERVER__PORT; those without two underscores are not settings."""
    known = {key.variable: key for key in keys(root) if key.settable}
    given = {name: value for name, value in sorted(environment.items()) if name.startswith(_PREFIX) and "__" in name}
    return _layer([(name, name, value) for name, value in given.items()], known)


def of_overrides(root: type[Document], overrides: Sequence[str]) -> Layer:
    """Each "server.port=8080"; of several for one key, the last is in force."""
    known = {key.name: key for key in keys(root) if key.settable}
    given: list[tuple[str, str, str]] = []
    nothing: list[str] = []
    for override in overrides:
        name, equals, value = override.partition("=")
        if equals:
            given.append((f"--set {name.strip()}", name.strip(), value.strip()))
        else:
            nothing.append(f"--set: {override!r} sets nothing; write KEY=VALUE, such as server.port=8080.")
    layer = _layer(given, known)
    layer.problems = nothing + layer.problems
    return layer


def _defaulted(root: type[Document]) -> list[Key]:
    return [key for key in keys(root) if key.member.default is not msgspec.NODEFAULT]


def _layer(given: Sequence[tuple[str, str, str]], known: Mapping[str, Key]) -> Layer:
    """`given` is where each value stands, under what name, and itself."""
    document: dict[str, Any] = {}
    places: dict[KeyPath, str] = {}
    problems: list[str] = []
    for place, name, value in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {nearest[0]}?" if nearest else "`cortexd config example` shows all there are."
            problems.append(f"{place} is not a setting; {advice}")
            continue
        path = known[name].path
        places[path] = place
        section = document
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = value
    return Layer(document=document, where=lambda path: places.get(path, ""), text=True, problems=problems)
