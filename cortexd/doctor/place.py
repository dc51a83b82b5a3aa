"""Where a look is taken: this machine and this user's installation, or what a test has made up."""

import importlib.util
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from cortexd.config import Paths, default_paths

_PATIENCE = 20.0  # seconds for a command that only looks


class Answer(msgspec.Struct, frozen=True):
    """How a command ended."""

    code: int
    output: str
    errors: str = ""


class Ask(Protocol):
    """Runs a command that only looks, as `ask` does."""

    def __call__(self, command: Sequence[str], /, *, patience: float = _PATIENCE) -> Answer | None: ...


def ask(command: Sequence[str], /, *, patience: float = _PATIENCE) -> Answer | None:
    """None where there is no such command, or it does not come to an end."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=patience, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Answer(done.returncode, done.stdout, done.stderr)


def package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that checks look at and that a test may want to be otherwise."""

    environment: Mapping[str, str]
    file: Path | None = None  # the configuration file that was named
    root: Path = Path("/")  # of /proc, /sys, /dev, /etc, /run and /var
    ask: Ask = ask
    package: Callable[[str], Path | None] = package

    @property
    def paths(self) -> Paths:
        return default_paths(self.environment)
