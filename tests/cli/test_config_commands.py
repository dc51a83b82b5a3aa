"""`cortexd config`, which needs no daemon."""

import json
import tomllib
from pathlib import Path

import pytest

from cortexd.cli.main import run
from cortexd.config import Settings, load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the configuration is looked for: a directory without any."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    for name in ("STATE_DIRECTORY", "XDG_DATA_HOME", "CORTEXD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def code_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        run(["config", *arguments])
    return ended.value.code


def test_what_is_shown_is_a_file_that_gives_the_same(home: Path, capsys: pytest.CaptureFixture[str]):
    (home / "cortexd.toml").write_text("[lifecycle]\nkeep_alive = '1h'\n[[model]]\nname = 'goose'\npin = true")
    assert code_of("show", "--set", "server.port=8080") == 0
    again = home / "again.toml"
    again.write_text(capsys.readouterr().out)
    environment = {"HOME": str(home)}
    assert load_settings(again, environment, ()) == load_settings(
        home / "cortexd.toml", environment, ("server.port=8080",)
    )


def test_origins_are_shown_behind_their_values(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (home / "cortexd.toml").write_text("[server]\nhost = '::1'")
    monkeypatch.setenv("CORTEXD_SERVER__DRAIN_S", "1m")
    assert code_of("show", "--origin", "--set", "server.port=8080") == 0
    shown = capsys.readouterr().out
    tomllib.loads(shown)
    lines: dict[str, list[str]] = {}
    for line in shown.splitlines():  # [cache] has a host as well
        lines.setdefault(line.split(" = ")[0], [part.strip() for part in line.split(" # ")])
    assert lines["host"] == ['host = "::1"', f"{home}/cortexd.toml:2"]
    assert lines["port"] == ["port = 8080", "--set server.port"]
    assert lines["drain_s"] == ['drain_s = "1m"', "CORTEXD_SERVER__DRAIN_S"]
    assert lines["embedded"] == ["embedded = true", "default"]


def test_programs_get_json(home: Path, capsys: pytest.CaptureFixture[str]):
    assert code_of("show", "--json", "--offline") == 0
    assert json.loads(capsys.readouterr().out)["server"]["port"] == Settings().server.port
    assert code_of("show", "--json", "--origin", "--set", "server.port=8080") == 0
    assert json.loads(capsys.readouterr().out)["server.port"] == {"value": 8080, "origin": "--set server.port"}


def test_a_valid_file_is_said_to_be_so(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    file = home / "other.toml"
    file.write_text("[server]\nport = 1\n[[model]]\nname = 'goose'")
    monkeypatch.setenv("CORTEXD_SERVER__PORT", "many")  # which is no matter of the file
    assert code_of("check", str(file)) == 0
    assert capsys.readouterr().out == f"{file} is valid: 2 keys set, 1 model described.\n"


def test_everything_wrong_with_a_file_is_said(home: Path, capsys: pytest.CaptureFixture[str]):
    (home / "cortexd.toml").write_text("[server]\nport = -1\nhots = 'x'")
    assert code_of("check") == 2
    said = capsys.readouterr().err
    assert f"{home}/cortexd.toml:2: server.port: -1 is not" in said
    assert f"{home}/cortexd.toml:3: server.hots is not a setting; did you mean server.host?" in said


def test_a_file_that_is_not_there_is_not_valid(home: Path, capsys: pytest.CaptureFixture[str]):
    assert code_of("check", str(home / "none.toml")) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert code_of("check") == 0
    assert "the defaults are in force" in capsys.readouterr().out


def test_schema_and_example_are_printed_as_they_are_in_the_repository(capsys: pytest.CaptureFixture[str]):
    docs = Path(__file__).parents[2] / "docs"
    for command, file in (("schema", "cortexd.schema.json"), ("example", "cortexd.example.toml")):
        assert code_of(command) == 0
        assert capsys.readouterr().out == (docs / file).read_text()
