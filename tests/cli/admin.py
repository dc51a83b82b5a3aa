"""A person at a terminal, for commands that ask, and the command itself."""

import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.configured import Office
from tests.cli.test_admin_commands import Done, cortexd


class Terminal(io.StringIO):
    """Somebody who types these lines."""

    def isatty(self) -> bool:
        return True


def somebody_says(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))


def editor(place: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An editor with an argument of its own: `script` is Python that makes `text` another one, each time it is opened."""
    program = place / "editor"
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\nassert sys.argv[1] == '--wait'\nfile = pathlib.Path(sys.argv[2])\n"
        f"text = file.read_text()\n{script}\nfile.write_text(text)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"'{program}' --wait")


async def config(office: Office, *arguments: str) -> Done:
    return await cortexd(office.house, "config", *arguments)


async def printed(office: Office, *arguments: str) -> Any:
    done = await config(office, *arguments, "--json")
    assert done.code == 0, done
    return json.loads(done.out)


def no_configuration_elsewhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is looked for in a home is looked for in `place`."""
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(place))
    for name in ("STATE_DIRECTORY", "XDG_DATA_HOME", "CORTEXD_CONFIG", "CORTEXD_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert not [name for name in os.environ if name.startswith("CORTEXD_") and "__" in name]
