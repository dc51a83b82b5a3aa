"""Layers laid over each other, and what comes of it: the settings, and where each of them is from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cortexd.config.checking import Checked, Count, named
from cortexd.config.document import Document, Settings
from cortexd.config.keys import members
from cortexd.config.layers import Layer, of_environment, of_file, of_overrides
from cortexd.config.naming import misled, twice_used
from cortexd.config.paths import default_paths
from cortexd.config.positions import KeyPath
from cortexd.errors import InvalidConfiguration

D = TypeVar("D", bound=Document)

_DIRECTORIES = ("models", "directories")


class Reading(msgspec.Struct, frozen=True):
    """The settings, and by path where each key is from: "--set server.port", "CORTEXD_SERVER__PORT", "FILE:3", "default"."""

    settings: Settings
    origins: Mapping[KeyPath, str]


def load_settings(file: Path | None, environment: Mapping[str, str], overrides: Sequence[str]) -> Settings:
    """Flags over environment over file over defaults; raises InvalidConfiguration, one sentence a line for all that is wrong."""
    return read_settings(file, environment, overrides).settings


def read_settings(file: Path | None, environment: Mapping[str, str], overrides: Sequence[str]) -> Reading:
    """The same, with where each value is from."""
    layers = [] if file is None else [of_file(file)]
    layers += [of_environment(Settings, environment), of_overrides(Settings, overrides)]
    usual = (str(default_paths(environment).data / "models"),)
    return reading_of(layers, usual)


def settings_from_document(document: Mapping[str, Any]) -> Settings:
    """Settings from what `canonical` wrote, or a document of that form; raises InvalidConfiguration as `load_settings` does."""
    return reading_of([Layer(document=document)], ()).settings


def reading_of(layers: Sequence[Layer], directories: tuple[str, ...]) -> Reading:
    """Later layers over earlier ones; `directories` are those of the models where no layer says any."""
    assembly = Assembly(Settings, layers)
    if not assembly.values.get(_DIRECTORIES):
        assembly.values[_DIRECTORIES] = directories
        assembly.places.pop(_DIRECTORIES, None)
    assembly.problems += _problems_of_names(assembly)
    return Reading(assembly.built(Settings), assembly.origins)


class Assembly:
    """Values by path, from layers of which later ones win; arrays of sections are replaced, not mixed."""

    def __init__(self, root: type[Document], layers: Sequence[Layer]) -> None:
        self.values: dict[KeyPath, Any] = {}
        self.places: dict[KeyPath, str] = {}
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        for layer in layers:
            checked = Checked(root, layer.where, text=layer.text)
            checked.check(dict(layer.document))
            self.problems += layer.problems + checked.problems
            self._lay(checked.values, layer)

    def built(self, root: type[D]) -> D:
        """Raises InvalidConfiguration where any layer had a problem."""
        if self.problems:
            raise InvalidConfiguration("\n".join(dict.fromkeys(self.problems)))
        try:
            return self._built(root, ())
        except ValueError as error:  # of a section's own check of how its keys go together
            raise InvalidConfiguration(f"{error}.") from error

    def _lay(self, values: Mapping[KeyPath, Any], layer: Layer) -> None:
        for array in [path for path, value in values.items() if isinstance(value, Count)]:
            for path in [path for path in self.values if path[: len(array)] == array]:
                del self.values[path]
                self.places.pop(path, None)
        self.values |= values
        self.places |= {path: layer.where(path) for path in values}

    def _built(self, section: type[D], path: KeyPath) -> D:
        content: dict[str, Any] = {}
        for member in members(section):
            here = (*path, member.name)
            if member.section is None:
                content[member.name] = self.values.get(here, member.default)
                self.origins[here] = self.places.get(here) or "default"
            elif member.repeated:
                count = self.values.get(here, 0)
                content[member.name] = tuple(self._built(member.section, (*here, index)) for index in range(count))
            elif not member.optional or here in self.values:
                content[member.name] = self._built(member.section, here)
        return section(**content)


def _problems_of_names(assembly: Assembly) -> Iterator[str]:
    def place(path: KeyPath) -> str:
        return assembly.places.get(path) or named(path)

    def owner(path: KeyPath) -> str:
        return f"the {path[0]} {assembly.values.get((*path[:2], 'name'), '?')!r}"

    for name, path, first in twice_used(assembly.values):
        yield (
            f"{place(path)}: the name {name!r} is used twice, by {owner(path)} here and by {owner(first)} at {place(first)}."
        )
    for path, sentence in misled(assembly.values):
        where = f"{assembly.places[path]}: " if assembly.places.get(path) else ""
        yield f"{where}{named(path)}: {sentence}"
