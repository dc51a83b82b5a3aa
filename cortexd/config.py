"""The settings: one document, declared once, read from TOML, environment and flags."""

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from cortexd.durations import seconds_of
from cortexd.errors import InvalidConfiguration

_PREFIX = "CORTEXD_"
_NOT_SETTINGS = {"CORTEXD_HOST", "CORTEXD_CONFIG", "CORTEXD_MODELS", "CORTEXD_DEBUG"}

Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section: unknown keys are refused."""


class Server(Document, frozen=True):
    """`[server]`: where and how HTTP is spoken."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 11435  # 0: any that is free
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**30)] = 16 * 2**20
    loading_comment_s: Annotated[float, Meta(gt=0, le=60)] = (
        3.0  # between two comments to a stream that waits for a load
    )
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0  # from SIGTERM until what still runs is cut


class Lifecycle(Document, frozen=True):
    """`[lifecycle]`: how models come and go."""

    keep_alive: float = 300.0  # duration from a model's last use to its unloading; negative: for ever
    parallel_loads: Positive = 2
    queue_limit: Positive = 1024  # requests that may wait for one model
    load_stall: Annotated[float, Meta(gt=0)] = 120.0  # duration without progress after which a load is given up
    ping_interval: Annotated[float, Meta(gt=0)] = 10.0  # duration between two checks that a worker answers
    ping_deadline: Annotated[float, Meta(gt=0)] = 60.0  # duration without an answer after which it is ended


class Models(Document, frozen=True):
    """`[models]`: where checkpoints are looked for."""

    directories: tuple[str, ...] = ()  # empty: `models` in the data directory
    embedded: bool = True  # offer the demo model


class Engine(Document, frozen=True):
    """`[engine]`: how our own engine computes."""

    threads: Annotated[int, Meta(ge=0, le=1024)] = 0  # of one worker; 0: as many as this process may use cores
    prefill_budget: Annotated[int, Meta(ge=1, le=65536)] = 256  # prompt tokens of one step, beside the running streams

    @property
    def thread_count(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


class ModelSampling(Document, frozen=True):
    """`[model.sampling]`: what a request gets that does not say otherwise."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    penalty_decay: Annotated[float, Meta(ge=0.9, le=1)] | None = None


class ModelLimits(Document, frozen=True):
    """`[model.limits]`: what a request may not exceed."""

    prompt_tokens: Positive | None = None
    max_tokens: Positive | None = None


class Model(Document, frozen=True):
    """`[[model]]`: one model, or what differs for one that was found in a models directory."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    path: str | None = None  # absolute, or relative to a models directory
    engine: str = "rwkv"
    strategy: str | None = None
    template: str | None = None
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    max_concurrency: Annotated[int, Meta(ge=1, le=1024)] | None = None
    aliases: tuple[str, ...] = ()
    keep_alive: float | None = None  # duration
    sampling: ModelSampling = ModelSampling()
    limits: ModelLimits = ModelLimits()


class Settings(Document, frozen=True):
    """One reading of the configuration."""

    server: Server = Server()
    lifecycle: Lifecycle = Lifecycle()
    models: Models = Models()
    engine: Engine = Engine()
    model: tuple[Model, ...] = ()


_DURATIONS = {
    ("server", "loading_comment_s"),
    ("server", "drain_s"),
    ("lifecycle", "keep_alive"),
    ("lifecycle", "load_stall"),
    ("lifecycle", "ping_interval"),
    ("lifecycle", "ping_deadline"),
}
_SECTIONS: dict[str, type[Document]] = {
    "server": Server,
    "lifecycle": Lifecycle,
    "models": Models,
    "engine": Engine,
}


class Paths(msgspec.Struct, frozen=True):
    """Where this user, or this service, keeps things."""

    config: Path
    data: Path
    cache: Path
    runtime: Path


def default_paths(environment: Mapping[str, str]) -> Paths:
    """The service manager's directories where it has made some, else those of the XDG specification."""
    home = Path(environment.get("HOME", "/"))

    def place(service: str, xdg: str, usual: str) -> Path:
        if service in environment:
            return Path(environment[service].split(":")[0])
        base = environment.get(xdg, "")
        return (Path(base) if base.startswith("/") else home / usual) / "cortexd"

    return Paths(
        config=place("CONFIGURATION_DIRECTORY", "XDG_CONFIG_HOME", ".config"),
        data=place("STATE_DIRECTORY", "XDG_DATA_HOME", ".local/share"),
        cache=place("CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache"),
        runtime=place("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", ".cache"),
    )


def load_settings(file: Path | None, environment: Mapping[str, str], overrides: Sequence[str]) -> Settings:
    """Flags over environment over file over defaults; raises InvalidConfiguration with one sentence."""
    document, text = _read(file)
    _check_keys(document, file, text)
    for source, key, value in [*_from_environment(environment), *_from_overrides(overrides)]:
        _put(document, source, key, value)
    _complete_directories(document, environment)
    try:
        settings = msgspec.convert(_with_seconds(document), Settings, strict=False)
    except msgspec.ValidationError as error:
        where = f"In {file}: " if file else ""
        raise InvalidConfiguration(f"{where}{_sentence(str(error))}") from error
    _check_names(settings)
    return settings


def _complete_directories(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Flags and the environment give directories as PATH is given; nobody giving any means the usual one."""
    models = document.setdefault("models", {})
    if not isinstance(models, dict):
        return
    section = cast("dict[str, Any]", models)
    given = section.setdefault("directories", [str(default_paths(environment).data / "models")])
    if isinstance(given, str):
        section["directories"] = [part for part in given.split(os.pathsep) if part]


def _read(file: Path | None) -> tuple[dict[str, Any], str]:
    if file is None:
        return {}, ""
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except OSError as error:
        raise InvalidConfiguration(f"{file} cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"{file} is not valid TOML: {error}.") from error


def _check_keys(document: dict[str, Any], file: Path | None, text: str) -> None:
    known = [*_SECTIONS, "model"]
    for section, content in document.items():
        if section not in known:
            raise _unknown(section, known, file, text, section)
        bodies: list[Any] = cast("list[Any]", content) if isinstance(content, list) else [content]
        for body in bodies:
            if isinstance(body, dict):
                _check_struct(cast("dict[str, Any]", body), _SECTIONS.get(section, Model), section, file, text)


def _check_struct(body: dict[str, Any], struct: type[Document], path: str, file: Path | None, text: str) -> None:
    nested: dict[str, type[Document]] = {"sampling": ModelSampling, "limits": ModelLimits} if struct is Model else {}
    for key, value in body.items():
        if key not in struct.__struct_fields__:
            raise _unknown(f"{path}.{key}", [f"{path}.{name}" for name in struct.__struct_fields__], file, text, key)
        if key in nested and isinstance(value, dict):
            _check_struct(cast("dict[str, Any]", value), nested[key], f"{path}.{key}", file, text)


def _unknown(key: str, known: Sequence[str], file: Path | None, text: str, last: str) -> InvalidConfiguration:
    line = next((i for i, line in enumerate(text.splitlines(), 1) if last in line.partition("#")[0]), None)
    where = f"{file}, line {line}: " if file and line else ""
    nearest = difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}."
    return InvalidConfiguration(f"{where}{key} is not a setting; {advice}")


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [
        (name, name.removeprefix(_PREFIX).lower().replace("__", "."), value)
        for name, value in sorted(environment.items())
        if name.startswith(_PREFIX) and name not in _NOT_SETTINGS and "__" in name
    ]


def _from_overrides(overrides: Sequence[str]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise InvalidConfiguration(f"{override!r} sets nothing; write KEY=VALUE, such as server.port=8080.")
        found.append((f"--set {key}", key.strip(), value.strip()))
    return found


def _put(document: dict[str, Any], source: str, key: str, value: str) -> None:
    section, _, name = key.partition(".")
    known = [f"{known}.{field}" for known, struct in _SECTIONS.items() for field in struct.__struct_fields__]
    if f"{section}.{name}" not in known:
        nearest = difflib.get_close_matches(key, known, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else "see the README for the settings there are."
        raise InvalidConfiguration(f"{source}: {key} is not a setting; {advice}")
    content = document.setdefault(section, {})
    if isinstance(content, dict):
        content[name] = value


def _with_seconds(document: dict[str, Any]) -> dict[str, Any]:
    """The document with every duration in seconds."""

    def convert(body: Any, key: str, path: str) -> None:
        if isinstance(body, dict) and isinstance(written := cast("dict[str, Any]", body).get(key), str):
            try:
                body[key] = seconds_of(written)
            except ValueError as error:
                raise InvalidConfiguration(f"{path}.{key}: {error}.") from error

    for section, key in _DURATIONS:
        convert(document.get(section), key, section)
    models: Any = document.get("model")
    for model in cast("list[Any]", models) if isinstance(models, list) else []:
        convert(model, "keep_alive", "model")
    return document


def _sentence(error: str) -> str:
    message, _, path = error.partition(" - at `$.")
    return f"{path.rstrip('`')}: {message}." if path else f"{message}."


def _check_names(settings: Settings) -> None:
    owners: dict[str, str] = {}
    for model in settings.model:
        for name in (model.name, *model.aliases):
            if name.lower() in owners:
                raise InvalidConfiguration(
                    f"The name {name!r} is used twice: by the models {owners[name.lower()]!r} and {model.name!r}."
                )
            owners[name.lower()] = model.name
