"""The compiled kernels: there, to be compiled, or not to be had."""

from pathlib import Path

from cortexd.doctor.native import native_kernels
from cortexd_kernels.native.library import open_native, places
from tests.doctor.made_up import as_nobody


def test_the_library_of_this_machine_is_found_where_it_lies():
    if open_native().library is not None:  # which compiles it where that can be done
        assert native_kernels().level == "ok"
        assert any(str(file.parent) in native_kernels().says for file in places())


def test_a_compiler_is_as_good_and_its_time_is_foretold(tmp_path: Path):
    found = native_kernels("avx2", [tmp_path / "native.so"], "g++")
    assert found.level == "note"
    assert "g++ compiles them" in found.says


def test_without_a_compiler_pytorch_computes(tmp_path: Path):
    found = native_kernels("avx2", [tmp_path / "native.so"], "")
    assert (found.level, found.advice) == ("warning", "Install g++ or clang++.")


def test_a_library_that_does_not_load_is_told_with_what_the_loader_says(tmp_path: Path):
    broken = tmp_path / "native.so"
    broken.write_bytes(b"cut off")
    assert (
        "file too short" in native_kernels("avx2", [broken], "").says
        or "invalid ELF" in native_kernels("avx2", [broken], "").says
    )


def test_a_compiler_is_of_no_use_to_who_can_write_nowhere():
    with as_nobody() as closed:
        found = native_kernels("avx2", [closed / "native" / "native.so"], "g++")
    assert found.level == "warning"
    assert "cannot be written to" in found.says
