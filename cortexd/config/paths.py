"""Where this user, or this service, keeps things."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from cortexd.errors import InvalidConfiguration


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


def usual_file(environment: Mapping[str, str]) -> Path | None:
    """The configuration file that is read where none is named, if there is one. Raises InvalidConfiguration."""
    file = default_paths(environment).config / "cortexd.toml"
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # it may be there: what nobody can read is no file that says nothing
        raise InvalidConfiguration(f"{file} cannot be read ({error.strerror}).") from error
    return file
