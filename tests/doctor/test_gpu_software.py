"""What is installed, beside the GPUs that there are."""

import json
import subprocess
import sys
from pathlib import Path

from cortexd.doctor.gpu_devices import Graphics
from cortexd.doctor.gpu_software import build, compiler, library, trial, verdicts
from cortexd.doctor.installation import TorchBuild
from cortexd.doctor.place import Answer
from cortexd_kernels.hardware import Hardware
from cortexd_kernels.verdicts import Verdict, Verdicts
from tests.doctor.made_up import levels, only, place

NVIDIA = Graphics(1, 0, (Path("/dev/nvidia0"),), ())
AMD = Graphics(0, 1, (), (Path("/dev/kfd"), Path("/dev/dri/renderD128")))
CPU, CUDA, ROCM = TorchBuild("2.13", None, None), TorchBuild("2.13", "13.0", None), TorchBuild("2.13", None, "7.1")


def test_a_pytorch_of_another_kind_is_a_warning():
    assert "CUDA" in only(build(CPU, NVIDIA)).advice
    assert "ROCm" in only(build(CUDA, AMD)).advice
    assert not list(build(CUDA, NVIDIA))
    assert not list(build(ROCM, AMD))


def tried(root: Path, devices: list[tuple[str, str]], problem: str = "") -> list[str]:
    said = Answer(0, json.dumps({"devices": devices, "problem": problem}))
    return levels(trial(place(root, {sys.executable: said}), CUDA, NVIDIA))


def test_what_computes_is_well_and_what_does_not_is_a_problem(tmp_path: Path):
    assert tried(tmp_path, [("NVIDIA H100", ""), ("NVIDIA H100", "no kernel image is available")]) == ["ok", "problem"]
    assert tried(tmp_path, [], "Found no NVIDIA driver on your system.") == ["problem"]
    assert tried(tmp_path, []) == ["problem"]


def test_a_process_that_hangs_or_crashes_is_a_problem(tmp_path: Path):
    assert levels(trial(place(tmp_path), CUDA, NVIDIA)) == ["problem"]
    crashed = place(tmp_path, {sys.executable: Answer(-11, "")})
    assert "ended with -11" in only(trial(crashed, CUDA, NVIDIA)).says


def test_a_pytorch_that_cannot_is_not_tried(tmp_path: Path):
    assert not list(trial(place(tmp_path), CPU, NVIDIA))


def test_the_process_that_tries_says_what_is_read():
    done = subprocess.run(
        [sys.executable, "-m", "cortexd.rwkv.gpu_trial"], capture_output=True, timeout=120, check=True
    )
    said = json.loads(done.stdout)
    assert said.keys() == {"devices", "problem"}
    assert bool(said["devices"]) != bool(said["problem"])


def test_what_triton_lacks_is_a_warning_of_two_sentences():
    found = compiler("Triton needs a C compiler to start its kernels: install gcc or clang")
    assert (found.level, found.advice) == ("warning", "Install gcc or clang.")
    assert found.says.startswith("Triton needs a C compiler to start its kernels; PyTorch")
    assert compiler("").level == "ok"


def test_the_drivers_library_is_looked_for_as_triton_does(tmp_path: Path):
    known = place(tmp_path, {"/sbin/ldconfig": Answer(0, "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1\n")})
    assert not list(library(known, NVIDIA))
    assert only(library(place(tmp_path), NVIDIA)).level == "warning"
    assert not list(library(place(tmp_path, TRITON_LIBCUDA_PATH="/opt/driver"), NVIDIA))
    (tmp_path / "libcuda.so.1").touch()
    assert not list(library(place(tmp_path, LD_LIBRARY_PATH=f"/nowhere:{tmp_path}"), NVIDIA))
    assert not list(library(place(tmp_path), AMD))


def test_what_the_kernels_were_found_to_be_is_told(tmp_path: Path):
    assert not list(verdicts(tmp_path))
    kept = Verdicts(tmp_path)
    kept.keep(Hardware("H100", "9.0", "550"), Verdict("H100", "fp16", "", 1.7e9))
    kept.keep(Hardware("H100", "9.0", "550"), Verdict("H100", "bf16", "wkv computes wrongly", 1.7e9))
    found = list(verdicts(tmp_path))
    assert levels(found) == ["warning", "ok"]
    assert "H100 in bf16" in found[0].says
    assert "wkv computes wrongly" in found[0].says
    assert "H100 in fp16" in found[1].says
