"""`cortexd doctor` as a person meets it: on a new machine, with a mistake, beside a daemon, as nobody."""

import http.server
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cortexd import __version__
from cortexd.cli.main import cli
from tests.cli.test_cli import cortexd
from tests.doctor.made_up import as_nobody
from tests.end_to_end.conftest import running_daemon

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who has nothing yet."""
    places = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
    return {"HOME": str(tmp_path), "CORTEXD_CONFIG": "", "CORTEXD_HOST": "", **dict.fromkeys(places, "")}


def told(output: str, *checks: str) -> dict[str, list[tuple[str, str]]]:
    """Levels and sentences of these checks."""
    found: list[dict[str, Any]] = json.loads(output)
    return {check: [(one["level"], one["says"]) for one in found if one["check"] == check] for check in checks}


def test_in_an_empty_home_nothing_is_wrong_and_nothing_is_made(home: dict[str, str], tmp_path: Path):
    done = cortexd("doctor", CORTEXD_SERVER__PORT="1", **home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"cortexd {__version__} in " in done.stdout
    assert "No daemon runs at http://127.0.0.1:1." in done.stdout
    assert not any((tmp_path / name).exists() for name in (".config", ".local", ".cache/cortexd/states"))


def test_a_mistake_in_the_configuration_is_a_problem_and_exit_1(home: dict[str, str], tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    file.write_text("[server]\nprot = 1\n")
    done = cortexd("doctor", "--json", "--config", str(file), "--host", NOWHERE, **home)
    assert done.returncode == 1
    says = f"{file}:2: server.prot is not a setting; did you mean server.port?"
    assert told(done.stdout, "configuration") == {"configuration": [("problem", says)]}
    assert done.stderr == ""
    table = cortexd("doctor", "--config", str(file), "--host", NOWHERE, **home)
    assert (table.returncode, table.stdout.splitlines()[-1].startswith("2 problems")) == (1, True)


async def test_beside_a_daemon_it_is_asked_and_its_database_left_alone(tmp_path: Path):
    (tmp_path / "lying.pth").write_bytes(b"nothing")
    (tmp_path / "XDG_DATA_HOME").mkdir()
    places = {name: str(tmp_path / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    async with running_daemon(tmp_path, tmp_path) as daemon:
        found = told(cortexd("doctor", "--json", "--host", daemon.url, **places).stdout, "daemon", "models", "database")
        lost = told(cortexd("doctor", "--json", "--host", NOWHERE, **places).stdout, "daemon")
    assert found["daemon"] == [("ok", f"cortexd {__version__} answers at {daemon.url}.")]
    assert [level for level, _ in found["models"]] == ["ok", "warning"]
    assert "lying cannot be loaded" in found["models"][1][1]
    assert "in use by a daemon" in found["database"][0][1]
    assert lost["daemon"][0][0] == "warning"
    after = told(cortexd("doctor", "--json", "--host", NOWHERE, **places).stdout, "database")
    assert "is whole" in after["database"][0][1]


def test_another_server_at_the_address_is_a_problem(home: dict[str, str]):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = cortexd("doctor", "--json", "--host", f"127.0.0.1:{server.server_port}", **home)
        server.shutdown()
    assert told(done.stdout, "daemon")["daemon"][0][0] == "problem"


def test_an_address_that_is_none_is_no_crash(home: dict[str, str]):
    done = cortexd("doctor", "--json", "--host", "http://[here", **home)
    assert (done.returncode, told(done.stdout, "daemon")["daemon"][0][0]) == (1, "problem")


def test_as_a_user_without_rights_in_a_home_that_is_closed(monkeypatch: pytest.MonkeyPatch):
    arguments = ["doctor", "--json", "--host", NOWHERE]
    runner = CliRunner()
    assert runner.invoke(cli, arguments).output  # who has no rights may not be able to read our code either
    for name in [name for name in os.environ if name.startswith(("XDG_", "CORTEXD_"))]:
        monkeypatch.delenv(name)
    with as_nobody() as folder:
        monkeypatch.setenv("HOME", str(folder / "locked"))
        done = runner.invoke(cli, arguments, standalone_mode=False)
    assert done.exception is None
    assert done.return_value == 1
    found = told(done.output, "configuration", "data directory", "cache directory", "database")
    assert [level for levels in found.values() for level, _ in levels] == ["problem"] * 4
    assert "could not be looked at" not in done.output
