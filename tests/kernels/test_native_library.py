"""Finding, compiling and doing without the native library."""

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cortexd_kernels.native import library
from cortexd_kernels.native.layout import FORMATS, pack
from cortexd_kernels.native.library import (
    GENERIC,
    build,
    do_without,
    find_compiler,
    open_library,
    open_native,
    processor_level,
)
from cortexd_kernels.native.stages import product
from cortexd_kernels.native.threads import Threads
from tests.kernels.native_library import CACHE, native_or_skip


def compiler() -> str:
    found = find_compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.fixture
def copier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that hands out what is compiled already; and where it counts how often it was asked."""
    native = native_or_skip()
    log, copies = tmp_path / "asked", tmp_path / "copies"
    assert native.library is not None
    copies.write_text(f"#!/bin/sh\nfor last; do :; done\necho >> {log}\ncp {native.library._name} $last\n")
    copies.chmod(0o755)
    monkeypatch.setenv("CXX", str(copies))
    return log


def test_without_a_compiler_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native = open_library(tmp_path, beside=tmp_path / "none")
    assert native.library is None
    assert "no C++ compiler" in native.description


def test_a_compiler_that_fails_is_a_reason_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    native = open_library(tmp_path / "cache", beside=tmp_path / "none")
    assert native.library is None
    assert "out of order" in native.description
    assert list((tmp_path / "cache").glob("native*")) == []


def test_a_library_that_cannot_be_loaded_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writes_nonsense = tmp_path / "c++"
    writes_nonsense.write_text('#!/bin/sh\nfor last; do :; done\necho nonsense > "$last"\n')
    writes_nonsense.chmod(0o755)
    monkeypatch.setenv("CXX", str(writes_nonsense))
    native = open_library(tmp_path / "cache", beside=tmp_path / "none")
    assert native.library is None
    assert native.description.startswith("no native kernels: what was compiled does not load")


def test_what_is_compiled_is_kept(tmp_path: Path, copier: Path, monkeypatch: pytest.MonkeyPatch):
    first = open_library(tmp_path, beside=tmp_path / "none")
    assert first.library is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX")
    second = open_library(tmp_path, beside=tmp_path / "none")
    assert second.library is not None
    assert "kept in" in second.description
    assert len(list(tmp_path.glob("native*"))) == 1


def test_the_generic_level_computes_the_same_product():
    native_or_skip()
    generic = open_native(CACHE, GENERIC)
    assert generic.library is not None
    for dtype in FORMATS.values():
        (weight, scales), x = pack(torch.randn(37, 192), dtype), torch.randn(5, 192)
        mine, theirs = (product(Threads(native), weight, x, scales) for native in (generic, native_or_skip()))
        assert torch.allclose(mine, theirs, atol=1e-4 if dtype.is_floating_point else 4e-3)


def test_every_level_compiles_with_vectors_of_its_width():
    if os.uname().machine != "x86_64":
        pytest.skip("levels are those of x86-64")
    compiler()
    native = open_native(CACHE, "avx512")  # loaded alone, which takes no such processor
    assert native.library is not None, native.description
    command = ["objdump", "-d", native.library._name]
    disassembled = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "vfmadd231ps" in disassembled
    assert "zmm" in disassembled


def test_the_processor_is_known_by_its_flags():
    assert processor_level() in {"avx512", "avx2", GENERIC}


def test_denormals_stay_what_they_are_for_the_rest_of_the_process():
    native_or_skip()
    assert torch.tensor(1e-40).mul(0.5) > 0


def test_other_threads_of_python_run_while_a_call_does():
    threads = Threads(native_or_skip())
    weight, x = torch.zeros(4096, 1024), torch.zeros(64, 1024)
    ended, turns = threading.Event(), []

    def compute() -> None:
        for _ in range(20):
            product(threads, weight, x)
        ended.set()

    worker = threading.Thread(target=compute)
    worker.start()
    while not ended.is_set():
        turns.append(time.perf_counter())
    worker.join()
    assert len(turns) > 100


def test_results_do_not_depend_on_how_often_the_number_of_threads_changes():
    threads = Threads(native_or_skip())
    weight, x = torch.randn(3000, 64), torch.randn(3, 64)
    expected = product(threads, weight, x)
    for turn in range(300):
        threads.count = 1 + turn % 5
        assert torch.equal(product(threads, weight, x), expected)


def test_two_callers_take_turns():
    threads = Threads(native_or_skip(), 2)
    weight, x = torch.randn(500, 64), torch.randn(3, 64)
    expected = product(threads, weight, x)
    right: list[bool] = []

    def compute() -> None:
        right.append(all(torch.equal(product(threads, weight, x), expected) for _ in range(200)))

    callers = [threading.Thread(target=compute) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [True] * 3


def test_whoever_did_not_compile_the_library_may_load_it_too(tmp_path: Path, copier: Path):
    build(tmp_path / "native.so", GENERIC, compiler())
    assert (tmp_path / "native.so").stat().st_mode & 0o777 == 0o755


def test_a_library_that_is_cut_off_is_compiled_anew(tmp_path: Path, copier: Path):
    cache = tmp_path / "cache"
    first = open_library(cache, beside=tmp_path / "none")
    kept = cache / f"{first.build}.so"
    kept.unlink()
    kept.write_bytes(b"")  # as after a power cut
    assert open_library(cache, beside=tmp_path / "none").library is not None
    assert len(copier.read_text().splitlines()) == 2


def test_of_several_that_need_the_library_at_once_one_compiles_it(tmp_path: Path, copier: Path):
    with ThreadPoolExecutor(4) as several:
        opened = several.map(lambda _: open_library(tmp_path / "cache", beside=tmp_path / "none"), range(4))
    assert all(native.library is not None for native in opened)
    assert len(copier.read_text().splitlines()) == 1


def test_a_user_without_a_home_uses_what_is_installed_and_is_told_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def nowhere() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    native = native_or_skip()
    assert native.library is not None
    (tmp_path / f"{native.build}.so").write_bytes(Path(native.library._name).read_bytes())
    assert open_library(beside=tmp_path).library is not None
    assert "no home" in open_library(beside=tmp_path / "none").description


def test_what_is_given_up_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "_opened", {})
    do_without("it computes wrongly")
    assert open_native().library is None
    assert "it computes wrongly; PyTorch" in open_native().description
