"""`cortexd warmup`, from the catalogue to what is said of each model."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cortexd.cli import warmup as command
from cortexd.cli.main import cli, run
from cortexd.errors import BadRequest, CortexdError, UnknownModel
from tests.checkpoint_files import tiny_state_dict, write_pth

DONE = {"model": "goose", "device": "cuda:0", "hardware": "NVIDIA H200", "dtype": "fp16", "problem": "", "tuned": 12,
        "seconds": 61.0}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a GPU, two models and no daemon."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    for name in ("CORTEXD_CONFIG", "CORTEXD_HOST", "CONFIGURATION_DIRECTORY", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(command, "has_gpu", lambda: True)
    monkeypatch.setattr(command, "computes_on_gpus", lambda: False)
    models = tmp_path / "models"
    models.mkdir()
    for name in ("goose", "duck"):
        write_pth(models / f"{name}.pth", tiny_state_dict(1, layers=1, vocabulary=257))
    (tmp_path / "cortexd.toml").write_text(
        f'[models]\ndirectories = ["{models}"]\n[server]\nport = 1\n[engine]\nprefill_budget = 512\n'
        '[[model]]\nname = "goose"\nstrategy = "cuda fp16"\nmax_concurrency = 8\n'
        '[[model]]\nname = "duck"\nstrategy = "cpu int8"\n'
    )
    monkeypatch.setenv("CORTEXD_CONFIG", str(tmp_path / "cortexd.toml"))
    return tmp_path


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the process would be given that has PyTorch."""
    given: list[dict[str, Any]] = []

    def warmed(task: dict[str, Any]) -> list[dict[str, Any]]:
        given.append(task)
        return [DONE, DONE | {"model": "duck", "problem": "there is no cuda:1"}][: len(task["models"])]

    monkeypatch.setattr(command, "_warmed", warmed)
    return given


def warmup(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["warmup", *arguments], catch_exceptions=True)


def failure(*arguments: str) -> BaseException:
    done = warmup(*arguments)
    assert done.exception is not None
    return done.exception


def test_every_model_that_names_a_gpu_is_warmed(home: Path, tasks: list[dict[str, Any]]):
    done = CliRunner().invoke(cli, ["warmup", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == [DONE]
    assert done.stderr == f"What is found out is kept in {home}/cache/kernels.\n"
    goose = {"name": "goose", "path": f"{home}/models/goose.pth", "strategy": "cuda fp16", "sequences": 8}
    assert tasks == [{"models": [goose], "cache": f"{home}/cache", "prefill": 512, "again": False}]


def test_so_is_one_that_auto_puts_there(home: Path, tasks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    (home / "cortexd.toml").write_text(f'[models]\ndirectories = ["{home}/models"]\nembedded = false\n')
    monkeypatch.setattr(command, "computes_on_gpus", lambda: True)
    monkeypatch.setattr(command, "ceilings", lambda *_: {"cpu": 2**40, "cuda:0": 2**29, "cuda:1": 2**40})
    warmup()
    assert [(model["name"], model["strategy"]) for model in tasks[0]["models"]] == [
        ("duck", "cuda:1 fp32"),
        ("goose", "cuda:1 fp32"),
    ]


@pytest.mark.usefixtures("home")
def test_a_table_says_what_was_done_and_again_does_it_again(tasks: list[dict[str, Any]]):
    row = CliRunner().invoke(cli, ["warmup", "GOOSE", "--again"], catch_exceptions=False).stdout.splitlines()[-1]
    assert row.split() == ["goose", "NVIDIA", "H200", "(cuda:0)", "fp16", "right", "12", "1", "min", "01", "s"]
    assert tasks[0]["again"]


@pytest.mark.usefixtures("tasks")
def test_a_problem_of_one_model_is_told_and_the_exit_code_says_so(home: Path, capsys: pytest.CaptureFixture[str]):
    with (home / "cortexd.toml").open("a") as file:
        file.write(f'[[model]]\nname = "swan"\npath = "{home}/models/duck.pth"\nstrategy = "cuda:1 fp16"\n')
    with pytest.raises(SystemExit) as ended:
        run(["warmup"])
    assert ended.value.code == 1
    assert "there is no cuda:1" in capsys.readouterr().out


@pytest.mark.usefixtures("home", "tasks")
def test_a_model_that_is_not_computed_on_a_gpu_cannot_be_named():
    error = failure("duck")
    assert isinstance(error, BadRequest)
    assert error.message == "duck is not computed on a GPU: give it a strategy such as 'cuda fp16'."


@pytest.mark.usefixtures("home", "tasks")
def test_nor_one_that_nobody_knows():
    assert isinstance(failure("gose"), UnknownModel)


@pytest.mark.usefixtures("tasks")
def test_without_any_there_is_nothing_to_do(home: Path):
    (home / "cortexd.toml").write_text(f'[models]\ndirectories = ["{home}/models"]\n[server]\nport = 1\n')
    error = failure()
    assert isinstance(error, CortexdError)
    assert error.message == "No model is computed on a GPU: give one a strategy such as 'cuda fp16'."


@pytest.mark.usefixtures("home")
def test_without_a_gpu_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(command, "has_gpu", lambda: False)
    with pytest.raises(SystemExit) as ended:
        run(["warmup"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "cortexd: There is no GPU on this machine: nothing can be warmed up.\n"


@pytest.mark.usefixtures("home")
def test_what_the_process_finds_wrong_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    error = failure()
    assert isinstance(error, CortexdError)
    assert error.message == "Nothing was warmed up: PyTorch finds no GPU."


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "The process that warmed up was killed by SIGKILL."),
        ("raise SystemExit(3)", "The process that warmed up ended with exit status 3."),
    ],
)
def test_nor_is_its_end_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str):
    (tmp_path / "ending.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(command, "_PROCESS", "ending")
    error = failure()
    assert isinstance(error, CortexdError)
    assert error.message == said
