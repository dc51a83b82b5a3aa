"""A check cannot harm whoever wants to know: it crashes and hangs in a process of its own, once for all who ask."""

import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from cortexd_kernels.examiner import Examiner
from cortexd_kernels.self_check import Finding
from cortexd_kernels.verdicts import Verdict, kept_verdicts
from tests.kernels import broken

CPU = torch.device("cpu")
HOUR = 3600.0
GOOD, WRONG, CRASHED = Finding(""), Finding("wkv computes wrongly"), Finding("wkv crashed", passing=True)


class Clock:
    def __init__(self) -> None:
        self.time = 1e9

    def __call__(self) -> float:
        return self.time


class Load:
    """A worker that wants to know; what a check would find out is given."""

    def __init__(self, cache: Path | None, clock: Clock) -> None:
        self.checks = 0
        self._examiner = Examiner(cache, now=clock)

    def finds(self, finding: Finding, *, anew: bool = False) -> str:
        def find_out(device: torch.device, dtype: str, alive: object) -> Finding:
            self.checks += 1
            return finding

        self._examiner._find_out = find_out
        return self._examiner.verdict(CPU, torch.float16, anew=anew).problem


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line for each process that checks."""
    monkeypatch.setenv(broken.LOG, str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "log"


def examiner(cache: Path | None, operators: type[object]) -> Examiner:
    def patience(case: str) -> float:  # none for what never ends
        return 0.0 if operators is broken.Hangs and case.startswith("product_add") else 300.0

    return Examiner(cache, f"{operators.__module__}:{operators.__name__}", patience, Clock())


def test_two_workers_at_once_have_one_check_made_and_later_loads_none(log: Path, tmp_path: Path):
    found: list[Verdict] = []

    def load() -> None:
        found.append(examiner(tmp_path, broken.Right).verdict(CPU, torch.float16))

    workers = [threading.Thread(target=load) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    load()
    assert found == [Verdict("cpu", "fp16", "", 1e9)] * 3
    assert log.read_text().split() == ["made"]
    assert kept_verdicts(tmp_path) == found[:1]


@pytest.mark.usefixtures("log")
def test_a_check_tells_whenever_it_gets_on_so_that_no_load_is_given_up_for_it():
    signs: list[None] = []
    assert examiner(None, broken.Right).verdict(CPU, torch.float16, alive=lambda: signs.append(None)).problem == ""
    assert len(signs) > 10


@pytest.mark.parametrize(
    ("operators", "told"),
    [
        (broken.Crashes, "product_add of 1 row ends the process that checks it on cpu in fp32: killed by SIGSEGV"),
        (broken.Hangs, "product_add of 1 row does not end on cpu in fp32: it was given 0 s"),
    ],
)
@pytest.mark.usefixtures("log")
def test_a_crash_and_a_hang_are_one_sentence(operators: type[object], told: str):
    found = examiner(None, operators).verdict(CPU, torch.float32)
    assert found.problem == told
    assert found.passing


@pytest.mark.usefixtures("log")
def test_what_cannot_be_imported_says_why():
    found = Examiner(None, "tests.kernels.nowhere:Operators").verdict(CPU, torch.float32)
    assert found.problem == (
        "the import of the kernels ends the process that checks it on cpu in fp32: "
        "ModuleNotFoundError: No module named 'tests.kernels.nowhere'"
    )


def test_without_a_process_there_is_no_verdict_for_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    found = examiner(tmp_path, broken.Right).verdict(CPU, torch.float16)
    assert found.problem.startswith("the kernels cannot be checked on cpu in fp16: [Errno 2] No such file")
    assert found.passing


def test_what_computes_rightly_or_wrongly_is_not_checked_again_unless_asked_for(tmp_path: Path):
    clock = Clock()
    load = Load(tmp_path, clock)
    assert load.finds(WRONG) == WRONG.problem
    clock.time += 1000 * HOUR
    assert load.finds(GOOD) == WRONG.problem
    assert load.finds(GOOD, anew=True) == ""
    clock.time += 1000 * HOUR
    assert load.finds(WRONG) == ""
    assert load.checks == 2


def test_what_may_pass_holds_for_an_hour(tmp_path: Path):
    clock = Clock()
    load = Load(tmp_path, clock)
    load.finds(CRASHED)
    clock.time += 0.99 * HOUR
    assert load.finds(GOOD) == CRASHED.problem
    clock.time += 0.02 * HOUR
    assert load.finds(GOOD) == ""


def test_where_nothing_can_be_kept_every_load_checks(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    for cache in (None, tmp_path / "file"):
        load = Load(cache, Clock())
        assert [load.finds(CRASHED), load.finds(GOOD)] == [CRASHED.problem, ""]
