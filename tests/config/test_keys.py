"""What is derived from the declarations, and what every declaration owes."""

from typing import Annotated, Literal

import pytest
from msgspec import Meta

from cortexd.config import Secret, Settings
from cortexd.config.checking import Checked
from cortexd.config.document import DAEMON, Document, Duration
from cortexd.config.keys import Key, keys
from cortexd.config.toml_text import literal


class Remote(Document, frozen=True):
    base_url: Annotated[str, Meta(min_length=1)]
    api_key: Secret | None = None
    timeout: Annotated[Duration | None, Meta(description="Until it is given up."), DAEMON] = None


class House(Document, frozen=True):
    """Forms of declaration that the settings do not all have yet."""

    remote: Remote | None = None
    rooms: tuple[Remote, ...] = ()
    mode: Literal["fast", "slow"] = "fast"
    key: Secret = Secret(environment="KEY")


def problems(document: object) -> list[str]:
    checked = Checked(House, lambda _: "")
    checked.check(document)
    return checked.problems


@pytest.mark.parametrize("key", keys(Settings), ids=lambda key: key.name)
def test_every_key_says_what_it_is_and_what_is_allowed(key: Key):
    assert key.member.description.endswith("."), "give it a Meta(description=…), a sentence"
    assert key.member.allowed
    assert key.member.restart in ("", "model", "daemon")


def test_names_and_variables_derive_from_the_place_of_a_key():
    (port,) = [key for key in keys(Settings) if key.name == "server.port"]
    assert (port.variable, port.settable) == ("CORTEXD_SERVER__PORT", True)
    assert not [key for key in keys(Settings) if key.settable and key.path[0] == "model"]


def test_what_is_said_of_a_key_is_found_wherever_it_stands():
    by_name = {key.name: key.member for key in keys(House)}
    timeout = by_name["remote.timeout"]
    assert (timeout.description, timeout.unit, timeout.restart) == ("Until it is given up.", "s", "daemon")
    assert by_name["mode"].allowed == "one of fast, slow"
    assert by_name["rooms.api_key"].secret


def test_an_optional_section_need_not_be_there_but_must_be_whole():
    assert problems({}) == problems({"remote": None}) == []
    assert problems({"remote": {}}) == ["remote.base_url: missing, it must be a string that is not empty."]


@pytest.mark.parametrize("written", ["sk-123", {"file": "a", "credential": "b"}, {"password": "sk-123"}])
def test_a_secret_written_in_clear_is_refused_and_not_shown(written: object):
    (problem,) = problems({"key": written})
    assert "{ credential =" in problem
    assert "sk-123" not in problem


def test_a_reference_to_a_secret_is_taken_and_written_as_such():
    checked = Checked(House, lambda _: "", text=True)
    checked.check({"key": '{ file = "/a" }'})
    assert checked.values == {("key",): Secret(file="/a")}
    assert literal(Secret(file="/a")) == '{ file = "/a" }'


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (300.0, "s", '"5m"'),
        (5400.0, "s", '"90m"'),
        (86400.0, "s", '"1d"'),
        (0.5, "s", "0.5"),
        (-1.0, "s", "-1.0"),
        (1e300, "s", "1e+300"),
        ('a"\\\n\x7fé', "", '"a\\"\\\\\\n\\u007fé"'),
        (("a", "b"), "", '["a", "b"]'),
        ({"goose@2": 95}, "", '{ "goose@2" = 95 }'),
        (True, "", "true"),
    ],
)
def test_values_are_written_as_people_would(value: object, unit: str, written: str):
    assert literal(value, unit) == written
