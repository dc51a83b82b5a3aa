"""What goes into a wheel besides Python."""

from pathlib import Path
from typing import Any

import pytest
from hatchling.bridge.app import Application

from cortexd_kernels.native import library
from hatch_build import NativeKernels

ROOT = Path(__file__).parents[1]


def build_data_of(folder: Path, version: str = "standard") -> dict[str, Any]:
    hook = NativeKernels(str(ROOT), {}, None, None, str(folder), "wheel", Application())  # type: ignore[arg-type]
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize(version, data)
    return data


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that is quick and makes no library."""
    path = tmp_path / "compiler"
    path.write_text("#!/bin/sh\nfor last; do :; done\necho made > $last\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


def test_a_wheel_brings_a_library_for_every_instruction_set_beside_the_source(
    tmp_path: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    data = build_data_of(tmp_path / "dist")
    brought = {str(Path("cortexd_kernels/native", library.file_name(level))) for level in ("avx512", "avx2", "generic")}
    assert set(data["force_include"].values()) == brought
    assert all(Path(path).read_text() == "made\n" for path in data["force_include"])
    assert data["tag"].startswith("py3-none-linux")
    assert not data["pure_python"]


def test_without_a_compiler_a_wheel_is_pure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build_data_of(tmp_path / "dist") == {"force_include": {}, "pure_python": True}


def test_a_level_that_does_not_compile_is_left_out(tmp_path: Path, compiler: Path):
    compiler.write_text('#!/bin/sh\ncase "$*" in *avx512*) exit 1;; esac\nfor last; do :; done\necho made > $last\n')
    names = [Path(path).name for path in build_data_of(tmp_path / "dist")["force_include"]]
    assert not any("avx512" in name for name in names)
    assert any("generic" in name for name in names)


def test_an_editable_install_compiles_nothing(tmp_path: Path, compiler: Path):
    assert build_data_of(tmp_path / "dist", "editable")["force_include"] == {}
