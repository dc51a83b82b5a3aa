"""`lifecycle.keep_alive=10m`, `model.goose.pin=true`: keys as a person names them, as a merge patch."""

import tomllib
from collections.abc import Sequence
from typing import Any, cast

import click
import msgspec

from cortexd.config import Document, Settings
from cortexd.config.checking import Checked
from cortexd.config.keys import members
from cortexd.errors import InvalidConfiguration

Path = tuple[str, ...]  # one part at least


def merge_patch(assignments: Sequence[str], unset: Sequence[str]) -> dict[str, Any]:
    """As `cortexd.config.merging` takes it. Raises UsageError for what is no assignment, and InvalidConfiguration for what no
    key can be.
    """
    patch: dict[str, Any] = {}
    for assignment in assignments:
        path, value = _parsed(assignment)
        _put(patch, path, _checked(path, value, assignment))
    for key in unset:
        path, rest = _parsed(f"{key}=")
        if rest:
            raise click.UsageError(f"{key!r} is no key; --unset takes no value.")
        _put(patch, path, None)
    return patch


def _parsed(assignment: str) -> tuple[Path, str]:
    """The parts of a key, which TOML may want in quotes, where an equals sign may be too, and what is behind it."""
    for place, character in enumerate(assignment):
        if character != "=":
            continue
        try:
            inner: Any = tomllib.loads(f"{assignment[:place]}=0")
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        path: list[str] = []
        while isinstance(inner, dict):
            ((name, inner),) = cast("dict[str, Any]", inner).items()
            path.append(name)
        return tuple(path), assignment[place + 1 :].strip()
    raise click.UsageError(f"{assignment!r} sets nothing; write KEY=VALUE, such as lifecycle.keep_alive=10m.")


def _checked(path: Path, value: str, assignment: str) -> Any:
    """The value as JSON has it, by the declaration of its key."""
    section, names = _section_of(path, assignment)
    within = path[names:]
    content: dict[str, Any] = {"name": path[1]} if names else {}
    inner = content
    for part in within[:-1]:
        inner = inner.setdefault(part, {})
    inner[within[-1]] = value
    # What else a section must have is missing further up than where the value stands.
    checked = Checked(section, lambda at: "" if len(at) < len(within) else assignment, text=True)
    checked.check(content)
    if problems := [problem for problem in checked.problems if problem.startswith(assignment)]:
        raise InvalidConfiguration("\n".join(problems))
    if within not in checked.values:
        raise InvalidConfiguration("\n".join(checked.problems))
    return msgspec.to_builtins(checked.values[within])


def _section_of(path: Path, assignment: str) -> tuple[type[Document], int]:
    """The section that the path's end is in, and how many parts lead there: two into an array, by name; else none."""
    for member in members(Settings):
        if member.name == path[0] and member.repeated and member.section is not None:
            if len(path) <= 2:
                example = f"{member.name}.NAME.{members(member.section)[1].name}"
                raise InvalidConfiguration(f"{assignment}: name a key, such as {example}.")
            return member.section, 2
    return Settings, 0


def _put(patch: dict[str, Any], path: Path, value: Any) -> None:
    *way, last = path
    inner: dict[str, Any] | None = patch
    for part in way:
        further: Any = None if inner is None else inner.setdefault(part, {})
        inner = cast("dict[str, Any]", further) if isinstance(further, dict) else None
    if inner is None or last in inner:
        raise click.UsageError(f"{'.'.join(path)} is set or unset more than once.")
    inner[last] = value
