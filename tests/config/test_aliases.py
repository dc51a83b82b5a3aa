"""Aliases: what may be said, what is refused and in which words, and that all that is derived from the declarations has them."""

from pathlib import Path
from typing import Any

import pytest

from cortexd.config import Alias, Settings, content_hash, load_settings, read_settings, settings_from_document
from cortexd.config.checking import Checked
from cortexd.config.document import Document, Weight
from cortexd.config.listing import listing
from cortexd.config.naming import model_of
from cortexd.config.schema import json_schema
from cortexd.errors import InvalidConfiguration

TEXT = """\
[[model]]
name = "goose"
[[alias]]
name = "chat"
to = { "goose@2" = 95, "goose@3" = 5 }
[[alias]]
name = "code"
to = "goose@2"
revert = false
"""


def read(text: str, tmp_path: Path) -> Settings:
    file = tmp_path / "cortexd.toml"
    file.write_text(text)
    return load_settings(file, {}, ())


def refusal(text: str, tmp_path: Path) -> list[str]:
    with pytest.raises(InvalidConfiguration) as refused:
        read(text, tmp_path)
    return refused.value.message.replace(f"{tmp_path}/", "").splitlines()


def test_an_alias_leads_to_one_target_or_to_several_by_weight(tmp_path: Path):
    chat, code = read(TEXT, tmp_path).alias
    assert chat == Alias(name="chat", to={"goose@2": 95.0, "goose@3": 5.0}, revert=True)
    assert code == Alias(name="code", to="goose@2", revert=False)
    assert (chat.weights, code.weights) == ({"goose@2": 95.0, "goose@3": 5.0}, {"goose@2": 1.0})


def test_the_listing_writes_weights_as_people_do_with_where_they_are_from(tmp_path: Path):
    (tmp_path / "cortexd.toml").write_text(TEXT)
    written = listing(read_settings(tmp_path / "cortexd.toml", {}, ()), origins=True)
    assert 'to = { "goose@2" = 95, "goose@3" = 5 }' in written
    assert f"# {tmp_path}/cortexd.toml:5" in written
    assert read(written, tmp_path).alias == read(TEXT, tmp_path).alias


def test_the_order_and_the_form_of_weights_are_no_other_content():
    one = settings_from_document({"alias": [{"name": "chat", "to": {"a": 1, "b": -0.0}}]})
    other = settings_from_document({"alias": [{"name": "chat", "to": {"b": 0, "a": 1.0}}]})
    assert content_hash(one) == content_hash(other)


@pytest.mark.parametrize(
    ("to", "sentences"),
    [
        ("3", ["cortexd.toml:3: alias[0].to: 3 is not a model or a table of weights; {hint}."]),
        ("'goose@0'", ["cortexd.toml:3: alias[0].to: 'goose@0' is not a model or a table of weights; {hint}."]),
        (
            "'goose@latest'",
            ["cortexd.toml:3: alias[0].to: 'goose@latest' is not a model or a table of weights; {hint}."],
        ),
        ("''", ["cortexd.toml:3: alias[0].to: '' is not a model or a table of weights; {hint}."]),
        ("{}", ["cortexd.toml:3: alias[0].to: no target has a weight above 0; give one to at least one."]),
        ("{ goose = 0 }", ["cortexd.toml:3: alias[0].to: no target has a weight above 0; give one to at least one."]),
        ("'Chat@2'", ["cortexd.toml:3: alias[0].to: 'Chat@2' is an alias itself; name the model that it leads to."]),
        (
            "{ goose = -1, '@2' = 1, b = nan, c = true }",
            [
                "cortexd.toml:3: alias[0].to.goose: -1 is not a number from 0 to 1000000.",
                "cortexd.toml:3: alias[0].to.\"@2\": '@2' is not a model; {hint}.",
                "cortexd.toml:3: alias[0].to.b: nan is not a number from 0 to 1000000.",
                "cortexd.toml:3: alias[0].to.c: true is not a number from 0 to 1000000.",
            ],
        ),
    ],
)
def test_a_wrong_target_is_told_with_its_place(tmp_path: Path, to: str, sentences: list[str]):
    hint = 'write "goose", "goose@17" or { "goose@17" = 95, "goose@18" = 5 }'
    told = refusal(f"[[alias]]\nname = 'chat'\nto = {to}", tmp_path)
    assert told == [sentence.replace("{hint}", hint) for sentence in sentences]


def test_a_weight_in_a_table_of_its_own_is_found_on_its_line(tmp_path: Path):
    told = refusal("[[alias]]\nname = 'chat'\n[alias.to]\na = 1\n'b@2' = 'much'", tmp_path)
    assert told == ["cortexd.toml:5: alias[0].to.\"b@2\": 'much' is not a number from 0 to 1000000."]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[[model]]\nname = 'chat'\n[[alias]]\nname = 'Chat'\nto = 'a'",
            "cortexd.toml:4: the name 'Chat' is used twice, by the alias 'Chat' here and by the model 'chat' at "
            "cortexd.toml:2.",
        ),
        (
            "[[alias]]\nname = 'chat'\nto = 'a'\n[[model]]\nname = 'b'\naliases = ['CHAT']",
            "cortexd.toml:2: the name 'chat' is used twice, by the alias 'chat' here and by the model 'b' at "
            "cortexd.toml:6.",
        ),
        (
            "[[alias]]\nname = 'chat'\nto = 'a'\n[[alias]]\nname = 'chat'\nto = 'b'",
            "cortexd.toml:5: the name 'chat' is used twice, by the alias 'chat' here and by the alias 'chat' at "
            "cortexd.toml:2.",
        ),
        (
            "[[alias]]\nname = 'goose@2'\nto = 'a'",
            "cortexd.toml:2: alias[0].name: 'goose@2' reads as a version of a model; an alias has no @ in its name.",
        ),
        (
            "[[alias]]\nname = 'chat'",
            "cortexd.toml:1: alias[0].to: missing, it must be a model or a table of weights.",
        ),
    ],
)
def test_a_wrong_name_is_told_with_its_place(tmp_path: Path, text: str, sentence: str):
    assert refusal(text, tmp_path) == [sentence]


def test_a_target_is_a_model_with_or_without_a_version():
    assert [model_of(target) for target in ("goose", "goose@17", "a model")] == ["goose", "goose", "a model"]
    for wrong in ("", "@2", "goose@", "goose@01", "goose@-1", "goose@2\n", "a@b@2", f"goose@{'1' * 20}"):
        with pytest.raises(ValueError, match="neither a model"):
            model_of(wrong)


def test_editors_know_both_forms_of_a_target():
    text, table = json_schema()["$defs"]["Alias"]["properties"]["to"]["anyOf"]
    assert text["pattern"] == table["propertyNames"]["pattern"] == "^[^@]+(@[1-9][0-9]{0,10})?$"
    assert table["additionalProperties"] == {"type": "number", "minimum": 0, "maximum": 1000000}


class House(Document, frozen=True):
    """A table that a flag or a variable may set, which the settings have none of yet."""

    shares: dict[str, Weight] | None = None


@pytest.mark.parametrize(
    ("text", "values", "problems"),
    [
        ("{ a = 1 }", {("shares",): {"a": 1.0}}, []),
        ("{ a = -1 }", {}, ["shares.a: -1 is not a number from 0 to 1000000."]),
        ("{ a = ", {}, ["shares: '{ a = ' is not a table."]),
        ("a", {}, ["shares: 'a' is not a table."]),
    ],
)
def test_a_table_in_a_flag_is_written_as_in_toml(text: str, values: dict[Any, Any], problems: list[str]):
    checked = Checked(House, lambda _: "", text=True)
    checked.check({"shares": text})
    assert (checked.values, checked.problems) == (values, problems)
