"""A secret is read when it is used, from where the document says; nothing ever shows it."""

from pathlib import Path

import msgspec
import pytest

from cortexd.config import Secret
from cortexd.errors import InvalidConfiguration


def test_a_secret_comes_from_the_service_manager_a_file_or_a_variable(tmp_path: Path):
    (tmp_path / "gpt-key").write_text("sk-123\n")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path), "GPT_KEY": "sk-456"}
    assert Secret(credential="gpt-key").read(environment) == "sk-123"
    assert Secret(file=str(tmp_path / "gpt-key")).read({}) == "sk-123"
    assert Secret(environment="GPT_KEY").read(environment) == "sk-456"


def test_a_secret_that_changes_is_read_anew(tmp_path: Path):
    file = tmp_path / "key"
    secret = Secret(file=str(file))
    for content in ("first", "second"):
        file.write_text(content)
        assert secret.read({}) == content


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"file": "a", "environment": "b"},
        {"file": ""},
        {"credential": "../etc/shadow"},
        {"credential": ".."},
        {"environment": "A\0B"},
        {"password": "hunter2"},
    ],
)
def test_a_reference_names_exactly_one_place(written: dict[str, str]):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(written, Secret)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (Secret(environment="GPT_KEY"), "variable GPT_KEY: it is not set"),
        (Secret(environment="EMPTY"), "variable EMPTY: it is empty"),
        (Secret(file="/nowhere/key"), r"file /nowhere/key \(No such file"),
        (Secret(file="/dev/zero"), "longer than any secret"),
        (Secret(credential="gpt-key"), "LoadCredential=gpt-key:PATH"),
    ],
)
def test_a_secret_that_is_not_there_is_said_with_its_place(secret: Secret, words: str):
    with pytest.raises(InvalidConfiguration, match=words):
        secret.read({"EMPTY": " "})


def test_what_is_no_text_is_not_shown(tmp_path: Path):
    (tmp_path / "key").write_bytes(b"hunter2\xff")
    with pytest.raises(InvalidConfiguration, match="not text") as refused:
        Secret(file=str(tmp_path / "key")).read({})
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert "hunter2" not in str(refused.value)
