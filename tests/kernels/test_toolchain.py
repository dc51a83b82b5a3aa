"""What Triton will not find is said before it looks."""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cortexd_kernels.toolchain import toolchain_problem


@pytest.fixture(autouse=True)
def a_machine_with_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    program(tmp_path / "bin" / "gcc")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path / "include")})
    return tmp_path


def program(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch(0o755)


def test_nothing_is_missing():
    assert toolchain_problem() == ""


def test_without_triton_it_is_to_be_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert toolchain_problem() == "Triton is not installed: `pip install triton`"


def test_cc_is_no_compiler_that_triton_would_find(tmp_path: Path):
    (tmp_path / "bin" / "gcc").rename(tmp_path / "bin" / "cc")
    assert toolchain_problem() == "Triton needs a C compiler to start its kernels: install gcc or clang"
    program(tmp_path / "bin" / "clang")
    assert toolchain_problem() == ""


def test_a_compiler_that_is_named_is_the_one_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "icx")
    assert toolchain_problem().startswith("Triton compiles with $CC, and 'icx' is no program")
    program(tmp_path / "bin" / "icx")
    assert toolchain_problem() == ""


def test_the_headers_of_python_are_needed(tmp_path: Path):
    (tmp_path / "include" / "Python.h").unlink()
    assert toolchain_problem() == (
        f"Triton needs the headers of Python to start its kernels, and there is no {tmp_path}/include/Python.h: "
        "install python3-dev"
    )


def test_debians_own_scheme_is_not_where_triton_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
    paths = sysconfig.get_paths
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: asked.append(scheme) or paths(scheme))
    assert toolchain_problem() == ""
    assert asked == ["posix_prefix"]


def test_to_ask_costs_neither_torch_nor_triton():
    code = (
        "import sys, cortexd_kernels.toolchain, cortexd_kernels.verdicts as v, pathlib\n"
        "cortexd_kernels.toolchain.toolchain_problem(); v.kept_verdicts(pathlib.Path('/nowhere'))\n"
        "assert not {'torch', 'triton'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
