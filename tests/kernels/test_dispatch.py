"""The fused operators compute where they can and are seen to do so rightly; what they are told to keep stays in our cache."""

import os
from pathlib import Path

import pytest
import torch

from cortexd_kernels import dispatch, release
from cortexd_kernels.dispatch import keep_compiled, operators_for
from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.verdicts import Verdict

GPU = torch.device("cuda:0")
TRITONS_OWN = ("TRITON_CACHE_DIR", "TRITON_HOME")


class Fused(PlainOperators):
    pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with one; what is missing there, and what a check finds."""
    machine = {"missing": "", "wrong": "", "checked": ""}

    class Examiner:
        def __init__(self, cache: Path) -> None:
            machine["cache"] = str(cache)

        def verdict(self, device: torch.device, dtype: torch.dtype, alive: object) -> Verdict:
            machine["checked"] = f"{dtype} on {device}, compiled into {os.environ.get('TRITON_CACHE_DIR')}"
            return Verdict("a GPU", "fp16", machine["wrong"], 0.0)

    monkeypatch.setattr(dispatch, "toolchain_problem", lambda: machine["missing"])
    monkeypatch.setattr(dispatch, "Examiner", Examiner)
    monkeypatch.setattr(dispatch, "fused_operators", lambda device, cache: Fused())
    for name in TRITONS_OWN:
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    return machine


def test_on_the_cpu_the_plain_ones_are_meant():
    operators, problem = operators_for(torch.device("cpu"), torch.int8)
    assert type(operators) is PlainOperators
    assert not problem


def test_what_passes_the_check_computes(gpu: dict[str, str], tmp_path: Path):
    operators, problem = operators_for(GPU, torch.int8, tmp_path)
    assert (type(operators), problem) == (Fused, "")
    assert gpu["checked"] == f"torch.int8 on cuda:0, compiled into {release.folder(tmp_path) / 'triton'}"
    assert gpu["cache"] == str(tmp_path)


def test_what_does_not_pass_computes_nothing_and_says_why(gpu: dict[str, str], tmp_path: Path):
    gpu["wrong"] = "wkv of 1 row computes wrongly"
    operators, problem = operators_for(GPU, torch.float16, tmp_path)
    assert (type(operators), problem) == (PlainOperators, "wkv of 1 row computes wrongly")


def test_without_a_compiler_nothing_is_checked(gpu: dict[str, str], tmp_path: Path):
    gpu["missing"] = "Triton needs a C compiler"
    operators, problem = operators_for(GPU, torch.float16, tmp_path)
    assert (type(operators), problem) == (PlainOperators, "Triton needs a C compiler")
    assert not gpu["checked"]


@pytest.mark.parametrize("name", TRITONS_OWN)
@pytest.mark.usefixtures("gpu")
def test_a_place_that_the_user_has_chosen_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "/elsewhere")
    keep_compiled(tmp_path)
    assert [os.environ.get(own) for own in TRITONS_OWN] == [
        ("/elsewhere" if own == name else None) for own in TRITONS_OWN
    ]


@pytest.mark.usefixtures("gpu")
def test_where_nothing_can_be_written_triton_keeps_its_own_place(tmp_path: Path):
    (tmp_path / "file").touch()
    keep_compiled(tmp_path / "file")
    keep_compiled(None)
    assert "TRITON_CACHE_DIR" not in os.environ


@pytest.mark.usefixtures("gpu")
def test_that_is_where_triton_reads_it(tmp_path: Path):
    knobs = pytest.importorskip("triton.knobs")
    keep_compiled(tmp_path)
    assert knobs.cache.dir == str(release.folder(tmp_path) / "triton")
