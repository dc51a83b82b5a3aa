"""One document from file, environment and flags; whatever is wrong with it is said in one sentence."""

from pathlib import Path

import pytest

from cortexd.config import Settings, default_paths, load_settings, read_settings, usual_file
from cortexd.config.keys import keys
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
    return refused.value.message.replace(f"{tmp_path}/", "")


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
    ("text", "sentence"),
    [
        ("[server]\nprot = 1", "cortexd.toml:2: server.prot is not a setting; did you mean server.port?"),
        ("[sever]\nport = 1", "cortexd.toml:1: sever is not a setting; did you mean server?"),
        (
            "[[model]]\nname = 'a'\n[model.sampling]\ntopp = 1",
            "cortexd.toml:4: model[0].sampling.topp is not a setting; did you mean model[0].sampling.top_p?",
        ),
        (
            "[server]\nkeep_alive = 1",
            "cortexd.toml:2: server.keep_alive is not a setting; did you mean lifecycle.keep_alive?",
        ),
        ("[models]\nx = 1", "cortexd.toml:2: models.x is not a setting; known are directories, embedded."),
        ("[server]\nport = 'many'", "cortexd.toml:2: server.port: 'many' is not an integer from 0 to 65535."),
        ("[server]\nport = '80'", "cortexd.toml:2: server.port: '80' is not an integer from 0 to 65535."),
        ("server.port = 70000", "cortexd.toml:1: server.port: 70000 is not an integer from 0 to 65535."),
        (
            f"[server]\nport = 0x{'f' * 9000}",
            "cortexd.toml:2: server.port: so large a number is not an integer from 0 to 65535.",
        ),
        (
            f"[memory]\ncpu = 0x{'f' * 9000}",
            'cortexd.toml:2: memory.cpu: so large a number is not a size; write "12 GB", "12 GiB", "70 %" or "auto".',
        ),
        (
            '[server]\n"a\\nb" = 1',
            'cortexd.toml:2: server."a\\nb" is not a setting; known are host, port, max_body_bytes, loading_comment_s, '
            "drain_s.",
        ),
        (
            "[[model]]\nname = 'a'\naliases = ['b', 'B']",
            "cortexd.toml:3: the name 'B' is used twice, by the model 'a' here and by the model 'a' at cortexd.toml:3.",
        ),
        ("[server]\nhost = 3", "cortexd.toml:2: server.host: 3 is not a string."),
        ("[sampling]\ntop_p = nan", "cortexd.toml:2: sampling.top_p: nan is not a number from 0 to 1."),
        ("[models]\nembedded = 1", "cortexd.toml:2: models.embedded: 1 is not true or false."),
        ("[models]\ndirectories = '/a'", "cortexd.toml:2: models.directories: '/a' is not a list of strings."),
        (
            "[lifecycle]\nkeep_alive = inf",
            'cortexd.toml:2: lifecycle.keep_alive: inf is not a duration; write "90s", "5m" or "1h30m".',
        ),
        (
            "[lifecycle]\n\nmax_wait = '5 parsecs'",
            "cortexd.toml:3: lifecycle.max_wait: '5 parsecs' is not a duration of at least 0 s; "
            'write "90s", "5m" or "1h30m".',
        ),
        (
            "[[model]]\nname = 'a'\n[[model]]\nname = 'b'\naliases = ['A']",
            "cortexd.toml:5: the name 'A' is used twice, by the model 'b' here and by the model 'a' at cortexd.toml:2.",
        ),
        ("server = 3", "cortexd.toml:1: server: 3 is not a table."),
        ("[model]\nname = 'a'", "cortexd.toml:1: model: a table is not an array of tables; write [[model]]."),
        (
            "\n[[model]]\npath = 'x'",
            "cortexd.toml:2: model[0].name: missing, it must be a string of 1 to 128 characters.",
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path: Path, text: str, sentence: str):
    assert refusal(text, tmp_path) == sentence


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = 1\n[server\nport = 1", "cortexd.toml:2: not valid TOML: "),
        ("[server]\nport = 1\nport = 2", "cortexd.toml:3: not valid TOML: "),
        ("[server", "cortexd.toml:1: not valid TOML: "),
        ("[" * 9000, "cortexd.toml"),
        (f"[server]\nport = {'9' * 9000}", "cortexd.toml: not valid TOML: "),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(tmp_path: Path, text: str, place: str):
    message = refusal(text, tmp_path)
    assert message.startswith(place)
    assert message.endswith(".")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path):
    text = "[server]\nport = -1\nhots = 'x'\n[memory]\ncpu = 'lots'\n[[model]]\nname = 'a'\npin = 'yes'\n[other]"
    with pytest.raises(InvalidConfiguration) as refused:
        load(text, tmp_path, {"CORTEXD_SERVER__PORT": "x"}, "lifecycle.restore=perhaps", "nothing")
    places = [line.replace(f"{tmp_path}/", "").split(": ")[0] for line in refused.value.message.splitlines()]
    lines = [f"cortexd.toml:{line}" for line in (2, 3, 5, 8, 9)]
    assert places == [*lines, "CORTEXD_SERVER__PORT", "--set", "--set lifecycle.restore"]


def test_mistakes_in_flags_and_environment_are_told_with_their_source(tmp_path: Path):
    assert refusal("", tmp_path, {"CORTEXD_SERVER__PROT": "1"}) == (
        "CORTEXD_SERVER__PROT is not a setting; did you mean CORTEXD_SERVER__PORT?"
    )
    assert refusal("", tmp_path, None, "server.prt=1") == "--set server.prt is not a setting; did you mean server.port?"
    assert "`cortexd config example`" in refusal("", tmp_path, None, "zzz=1")
    assert "KEY=VALUE" in refusal("", tmp_path, None, "server.port")
    assert refusal("", tmp_path, None, "server.port=many") == (
        "--set server.port: server.port: 'many' is not an integer from 0 to 65535."
    )


def test_keys_of_one_model_among_several_are_no_flags(tmp_path: Path):
    assert "--set model.keep_alive is not a setting" in refusal("", tmp_path, None, "model.keep_alive=1m")


def test_flags_and_variables_are_read_by_the_type_of_their_key(tmp_path: Path):
    settings = load(
        "",
        tmp_path,
        {"CORTEXD_MODELS__EMBEDDED": "false", "CORTEXD_LIFECYCLE__KEEP_ALIVE": "1h30m", "CORTEXD_MEMORY__CPU": "7e9"},
        "engine.threads=3",
        "sampling.top_p=1",
        'models.directories=["/a:b", "/c"]',
    )
    assert settings.models.embedded is False
    assert (settings.lifecycle.keep_alive, settings.memory.cpu) == (5400.0, "7e9")
    assert (settings.engine.threads, settings.sampling.top_p) == (3, 1.0)
    assert settings.models.directories == ("/a:b", "/c")


def test_every_value_has_an_origin(tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    file.write_text(
        "[server]\nhost = 'a'\nport = 1\ndrain_s = 1\n\n[[model]]\nname = 'x'\n[model.limits]\nmax_tokens = 3\n"
        "[[alias]]\nname = 'y'\nto = { x = 1 }"
    )
    environment = HOME | {"CORTEXD_SERVER__PORT": "2", "CORTEXD_SERVER__DRAIN_S": "2"}
    reading = read_settings(file, environment, ("server.drain_s=3",))
    origins = reading.origins
    assert origins["server", "host"] == f"{file}:2"
    assert origins["server", "port"] == "CORTEXD_SERVER__PORT"
    assert origins["server", "drain_s"] == "--set server.drain_s"
    assert origins["lifecycle", "keep_alive"] == "default"
    assert origins["models", "directories"] == "default"
    assert origins["model", 0, "limits", "max_tokens"] == f"{file}:9"
    assert origins["model", 0, "pin"] == "default"
    assert origins["alias", 0, "to"] == f"{file}:12"
    said = {path for path, origin in origins.items() if origin != "default"}
    assert len(said) == 7
    assert {key.path for key in keys(Settings)} == {tuple(p for p in path if isinstance(p, str)) for path in origins}


def test_other_variables_are_not_settings(tmp_path: Path):
    assert load("", tmp_path, {"CORTEXD_HOST": "x", "CORTEXD_MODELS": "y", "PATH": "z"}) == load("", tmp_path)


def test_a_file_that_is_no_text_is_said_so(tmp_path: Path):
    (tmp_path / "cortexd.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(InvalidConfiguration, match=r"cortexd\.toml: not valid TOML, which is in UTF-8"):
        load_settings(tmp_path / "cortexd.toml", HOME, ())


def test_a_file_that_cannot_be_read_is_said_so():
    with pytest.raises(InvalidConfiguration, match=r"cannot be read \(No such file"):
        load_settings(Path("/nowhere/cortexd.toml"), HOME, ())


def test_directories_of_the_service_manager_win_over_those_of_the_user():
    paths = default_paths(HOME | {"STATE_DIRECTORY": "/var/lib/cortexd:/second", "XDG_CONFIG_HOME": "/cfg"})
    assert paths.data == Path("/var/lib/cortexd")
    assert paths.config == Path("/cfg/cortexd")
    assert paths.cache == Path("/home/somebody/.cache/cortexd")


def test_the_usual_file_is_read_only_where_there_is_one(tmp_path: Path):
    environment = {"CONFIGURATION_DIRECTORY": str(tmp_path)}
    assert usual_file(environment) is None
    (tmp_path / "cortexd.toml").touch()
    assert usual_file(environment) == tmp_path / "cortexd.toml"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("-1", -1), ("2.5", 2.5), ("500ms", 0.5)]
)
def test_durations_are_written_as_people_do(text: str, seconds: float):
    assert seconds_of(text) == seconds
