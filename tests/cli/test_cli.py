"""The command line as a person meets it: in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cortexd import __version__
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.end_to_end.conftest import Start, running_daemon


def cortexd(*arguments: str, piped: str | None = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cortexd", *arguments],
        input=piped,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture
def start() -> Start:
    return running_daemon


def test_the_version_is_told():
    assert cortexd("--version").stdout == f"cortexd {__version__}\n"


def test_one_answer_without_a_daemon(tmp_path: Path):
    done = cortexd("run", "demo", "What is cortexd?", "--set", f"models.directories={tmp_path}", CORTEXD_HOST="")
    assert done.returncode == 0, done.stderr
    assert "daemon" in done.stdout


def test_what_is_piped_in_joins_the_prompt():
    done = cortexd("run", "demo", "--json", "--max-tokens", "3", piped="What is cortexd?")
    answer = json.loads(done.stdout)
    assert answer["usage"]["prompt_tokens"] == len("User: What is cortexd?\n\nAssistant:")
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["finish_reason"] == "length"


def test_no_prompt_at_all_is_said_so():
    done = cortexd("run", "demo")
    assert done.returncode == 1
    assert "There is no prompt" in done.stderr


def test_an_unknown_model_ends_with_its_own_code_and_the_nearest_name():
    done = cortexd("run", "dmeo", "hello")
    assert done.returncode == 4
    assert "demo" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_catalogue_is_listed_without_a_daemon(tmp_path: Path):
    write_pth(tmp_path / "goose.pth", tiny_state_dict(0, layers=1, heads=1, head_size=16, vocabulary=257))
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    listed = json.loads(cortexd("list", "--json", CORTEXD_MODELS__DIRECTORIES=str(tmp_path)).stdout)
    assert {model["id"]: model["architecture"] for model in listed} == {"broken": "", "demo": "rwkv7", "goose": "rwkv7"}
    table = cortexd("list", CORTEXD_MODELS__DIRECTORIES=str(tmp_path)).stdout
    assert "damaged" in table
    assert "goose" in table


def test_ps_without_a_daemon_says_how_to_start_one():
    done = cortexd("ps", "--host", "127.0.0.1:1")
    assert done.returncode == 3
    assert "cortexd serve" in done.stderr


async def test_ps_shows_what_is_loaded(start: Start, tmp_path: Path):
    async with start(tmp_path) as daemon:
        assert json.loads(cortexd("ps", "--json", CORTEXD_HOST=daemon.url).stdout) == []
        await daemon.chat("hello")
        (model,) = json.loads(cortexd("ps", "--json", CORTEXD_HOST=daemon.url).stdout)
        assert (model["id"], model["state"], model["leases"]) == ("demo", "ready", 0)
        assert "RWKV-7" in cortexd("ps", CORTEXD_HOST=daemon.url).stdout
        answered = cortexd("run", "demo", "hello", "--json", CORTEXD_HOST=daemon.url)
        assert json.loads(answered.stdout)["answer"]


def test_a_mistake_in_the_configuration_is_one_sentence_and_exit_2(tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    file.write_text("[server]\nprot = 1\n")
    done = cortexd("serve", "--config", str(file), XDG_DATA_HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"cortexd: {file}:2: server.prot is not a setting; did you mean server.port?\n"


@pytest.mark.parametrize(
    "arguments", [("--help",), ("list",), ("doctor",), ("config", "show"), ("simulate", "--generate", "bursty")]
)
def test_what_starts_no_daemon_does_not_pay_for_one(arguments: tuple[str, ...], tmp_path: Path):
    program = """
import atexit, sys
from cortexd.cli.main import run
heavy = {"torch", "numpy", "uvicorn", "starlette", "sqlalchemy", "alembic", "structlog", "uvloop"}
atexit.register(lambda: print("\\n", sorted(heavy & sys.modules.keys()), file=sys.stderr))
run()
"""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "CORTEXD_MODELS__DIRECTORIES": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, " []")
