"""One document from file, environment and flags; whatever is wrong with it is said in one sentence."""

from pathlib import Path

import pytest

from cortexd.config import Settings, default_paths, load_settings
from cortexd.durations import seconds_of
from cortexd.errors import InvalidConfiguration

HOME = {"HOME": "/home/somebody"}


def load(text: str, tmp_path: Path, environment: dict[str, str] | None = None, *overrides: str) -> Settings:
    file = tmp_path / "cortexd.toml"
    file.write_text(text)
    return load_settings(file, HOME | (environment or {}), overrides)


def refusal(text: str, tmp_path: Path, environment: dict[str, str] | None = None, *overrides: str) -> str:
    with pytest.raises(InvalidConfiguration) as refused:
        load(text, tmp_path, environment, *overrides)
    assert "\n" not in refused.value.message
    return refused.value.message


def test_without_anything_the_defaults_are_in_force():
    settings = load_settings(None, HOME, ())
    assert settings.server.port == 11435
    assert settings.lifecycle.keep_alive == 300.0
    assert settings.models.directories == ("/home/somebody/.local/share/cortexd/models",)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path):
    text = "[server]\nport = 1\nhost = '10.0.0.1'\ndrain_s = 5"
    environment = {"CORTEXD_SERVER__PORT": "2", "CORTEXD_SERVER__HOST": "10.0.0.2"}
    settings = load(text, tmp_path, environment, "server.port=3")
    assert (settings.server.port, settings.server.host, settings.server.drain_s) == (3, "10.0.0.2", 5.0)


def test_directories_are_given_like_a_path_by_flags_and_environment(tmp_path: Path):
    settings = load("", tmp_path, {"CORTEXD_MODELS__DIRECTORIES": "/a:/b"})
    assert settings.models.directories == ("/a", "/b")


def test_a_model_is_described_with_its_sampling_and_limits(tmp_path: Path):
    text = """
    [[model]]
    name = "goose"
    path = "goose.pth"
    keep_alive = "1h30m"
    aliases = ["gpt-4o-mini"]
    [model.sampling]
    top_p = 0.5
    [model.limits]
    max_tokens = 100
    """
    (model,) = load(text, tmp_path).model
    assert model.keep_alive == 5400.0
    assert model.sampling.top_p == 0.5
    assert model.limits.max_tokens == 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1", ("line 2", "server.prot", "did you mean server.port?")),
        ("[sever]\nport = 1", ("line 1", "sever", "did you mean server?")),
        (
            "[[model]]\nname = 'a'\n[model.sampling]\ntopp = 1",
            ("line 4", "model.sampling.topp", "model.sampling.top_p"),
        ),
        ("[server]\nport = 'many'", ("server.port", "int")),
        ("[server]\nport = 70000", ("server.port", "65535")),
        ("[lifecycle]\nkeep_alive = 'a while'", ("lifecycle.keep_alive", "5m")),
        ("[[model]]\nname = 'a'\nkeep_alive = '5 parsecs'", ("model.keep_alive", "duration")),
        ("[server\nport = 1", ("TOML", "line 1")),
        ("[[model]]\nname = 'a'\n[[model]]\nname = 'b'\naliases = ['A']", ("'A'", "twice", "'a'", "'b'")),
        ("server = 3", ("server",)),
        ("[[model]]\npath = 'x'", ("name",)),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path: Path, text: str, words: tuple[str, ...]):
    message = refusal(text, tmp_path)
    assert all(word in message for word in words), message


def test_mistakes_in_flags_and_environment_are_told_with_their_source(tmp_path: Path):
    assert "CORTEXD_SERVER__PROT" in refusal("", tmp_path, {"CORTEXD_SERVER__PROT": "1"})
    assert "did you mean server.port?" in refusal("", tmp_path, None, "server.prt=1")
    assert "KEY=VALUE" in refusal("", tmp_path, None, "server.port")


def test_other_variables_are_not_settings(tmp_path: Path):
    assert load("", tmp_path, {"CORTEXD_HOST": "x", "CORTEXD_MODELS": "y", "PATH": "z"}) == load("", tmp_path)


def test_a_file_that_cannot_be_read_is_said_so():
    with pytest.raises(InvalidConfiguration, match=r"cannot be read \(No such file"):
        load_settings(Path("/nowhere/cortexd.toml"), HOME, ())


def test_directories_of_the_service_manager_win_over_those_of_the_user():
    paths = default_paths(HOME | {"STATE_DIRECTORY": "/var/lib/cortexd:/second", "XDG_CONFIG_HOME": "/cfg"})
    assert paths.data == Path("/var/lib/cortexd")
    assert paths.config == Path("/cfg/cortexd")
    assert paths.cache == Path("/home/somebody/.cache/cortexd")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("-1", -1), ("2.5", 2.5), ("500ms", 0.5)]
)
def test_durations_are_written_as_people_do(text: str, seconds: float):
    assert seconds_of(text) == seconds
