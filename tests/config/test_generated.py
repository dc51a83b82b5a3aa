"""What is generated from the declarations is complete, true, and as it is in the repository."""

import re
from pathlib import Path
from typing import Any

import pytest

from cortexd.config import Alias, Model, Settings, effective, load_settings, read_settings
from cortexd.config.example import example
from cortexd.config.keys import keys
from cortexd.config.manual import manual
from cortexd.config.schema import json_schema
from tests.docs import generated

HOME = {"HOME": "/home/somebody"}


@pytest.mark.parametrize("file", generated(), ids=lambda file: file.name)
def test_the_files_in_docs_are_those_of_the_program(file: Path):
    assert file.read_text() == generated()[file], "run `make docs`"


def test_the_example_changes_nothing(tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    file.write_text(example())
    reading = read_settings(file, HOME, ())
    assert reading.settings == load_settings(None, HOME, ())
    assert set(reading.origins.values()) == {"default"}


def test_the_example_has_every_key_at_its_default(tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    file.write_text(re.sub(r"^#(?=[a-z\[])", "", example(), flags=re.MULTILINE))
    reading = read_settings(file, HOME, ())
    unsaid = {path for path, origin in reading.origins.items() if origin == "default"}
    assert unsaid == {("models", "directories")}  # empty stands for the usual one
    settings, defaults = reading.settings, load_settings(None, HOME, ())
    for section in ("server", "lifecycle", "models", "engine", "memory", "sampling", "limits"):
        assert getattr(settings, section) == getattr(defaults, section)
    (model,) = settings.model
    alone = Model(name=model.name, path=model.path, template=model.template, state=model.state)
    assert model == effective(alone, defaults)
    (alias,) = settings.alias
    assert alias == Alias(name=alias.name, to=alias.to)


def test_the_manual_has_a_row_for_every_key():
    text = manual()
    for key in keys(Settings):
        assert f"| `{key.path[-1]}` |" in text
        assert key.member.description in text


def test_the_schema_knows_every_key_and_no_other():
    schema = json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    for key in keys(Settings):
        said = definitions[key.owner.__name__]["properties"][key.path[-1]]
        assert said["description"] == key.member.description
        assert said.get("x-restart", "") == key.member.restart
        assert {"type": "null"} not in said.get("anyOf", [])  # which TOML has not
    assert all(definition["additionalProperties"] is False for definition in definitions.values())


def test_the_schema_allows_durations_and_sizes_as_text_and_as_numbers():
    definitions = json_schema()["$defs"]
    for section, key in (("Lifecycle", "linger"), ("Model", "keep_alive"), ("Memory", "cpu")):
        assert definitions[section]["properties"][key]["type"] == ["number", "string"]
