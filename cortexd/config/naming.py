"""Names, and that each of them leads to one place. Case makes no difference between names."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cortexd.config.positions import KeyPath

TARGET = r"[^@]+(@[1-9][0-9]{0,10})?"  # "goose", or as version 17 of the configuration had it, "goose@17"

Values = Mapping[KeyPath, Any]
Use = tuple[str, KeyPath]  # of a name, and where
Problem = tuple[KeyPath, str]  # where, and a sentence


def model_of(target: str) -> str:
    """What stands before the version; raises ValueError."""
    if re.fullmatch(TARGET, target) is None:
        raise ValueError(f"{target!r} is neither a model nor one at a version")
    return target.partition("@")[0]


def twice_used(values: Values) -> Iterator[tuple[str, KeyPath, KeyPath]]:
    """Names that models and aliases have in common: each with where it stands again, and where first."""
    first: dict[str, KeyPath] = {}
    for name, path in [*_of_models(values), *_of_aliases(values)]:
        if name.lower() in first:
            yield name, path, first[name.lower()]
        first.setdefault(name.lower(), path)


def misled(values: Values) -> Iterator[Problem]:
    """Aliases that lead nowhere, or that nobody would reach."""
    aliases = {name.lower() for name, _ in _of_aliases(values)}
    for name, path in _of_aliases(values):
        if "@" in name:
            yield path, f"{name!r} reads as a version of a model; an alias has no @ in its name."
    for index in range(values.get(("alias",), 0)):
        path: KeyPath = ("alias", index, "to")
        to: str | dict[str, float] = values.get(path, "")
        weights = {to: 1.0} if isinstance(to, str) else to
        for target in weights:
            if target.partition("@")[0].lower() in aliases:
                yield path, f"{target!r} is an alias itself; name the model that it leads to."
        if not any(weights.values()):
            yield path, "no target has a weight above 0; give one to at least one."


def _of_models(values: Values) -> Iterator[Use]:
    for index in range(values.get(("model",), 0)):
        name, aliases = ("model", index, "name"), ("model", index, "aliases")
        if name in values:
            yield values[name], name
        yield from ((alias, aliases) for alias in values.get(aliases, ()))


def _of_aliases(values: Values) -> Iterator[Use]:
    for index in range(values.get(("alias",), 0)):
        path = ("alias", index, "name")
        if path in values:
            yield values[path], path
