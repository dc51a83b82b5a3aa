"""The process behind `cortexd warmup`: what it finds out is kept, and what it cannot do is said for each model."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from cortexd.errors import UnsupportedCheckpoint
from cortexd.rwkv import warmup
from cortexd.rwkv.rehearsal import Rehearsal
from cortexd.rwkv.state import Home
from cortexd.rwkv.warmup import Model, Report, Task, Warmed, gpu_parts, warm_up
from cortexd.strategies import Segment
from cortexd_kernels.hardware import Hardware
from cortexd_kernels.operators import Packed
from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.verdicts import Verdict, Verdicts
from tests.checkpoint_files import tiny_state_dict, write_pth

HERE = Hardware("a GPU", "9.0", "570")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A machine where `cuda:0` is there, which is the CPU in truth."""
    write_pth(tmp_path / "tiny.pth", tiny_state_dict(5, layers=2, vocabulary=300))
    monkeypatch.setattr(warmup, "gpu_problem", lambda strategy: "there is no cuda:1" if "cuda:1" in strategy else "")
    monkeypatch.setattr(warmup, "toolchain_problem", lambda: "")
    monkeypatch.setattr(warmup, "hardware_of", lambda device: HERE)
    monkeypatch.setattr(warmup, "keep_compiled", lambda cache: None)
    monkeypatch.setattr(warmup, "current", lambda device: torch.device("cpu"))
    monkeypatch.setattr(warmup, "fused_operators", lambda device, cache: PlainOperators())
    monkeypatch.setattr(warmup, "Rehearsal", lambda path, dtype, home, *numbers: Rehearsal(path, dtype, Home(), 1, 128))
    monkeypatch.setattr(warmup, "_tune", lambda task, rehearsal, hardware, tell: 7)
    checks(monkeypatch)
    return Task([Model("tiny", str(tmp_path / "tiny.pth"), "cuda fp16", 4)], str(tmp_path / "cache"), 256)


def checks(monkeypatch: pytest.MonkeyPatch, problem: str = "") -> list[bool]:
    """Whether each check that is asked for is made anew."""
    asked: list[bool] = []

    class Examiner:
        def __init__(self, cache: Path) -> None:
            pass

        def verdict(self, device: torch.device, dtype: torch.dtype, *, anew: bool) -> Verdict:
            asked.append(anew)
            return Verdict(HERE.name, "fp16", problem, 0.0)

    monkeypatch.setattr(warmup, "Examiner", Examiner)
    return asked


def quiet(_: str) -> None:
    pass


def test_every_gpu_and_format_of_a_strategy_is_warmed_once():
    assert gpu_parts("cuda fp16 *3 -> cuda:1 fp16i8 *2 states fp16 -> cpu bf16 -> cuda:0 fp16") == [
        Segment("cuda:0", "fp16"),
        Segment("cuda:1", "int8", states="fp16"),
    ]


def test_each_model_is_told_with_what_was_done(gpu: Task):
    said: list[str] = []
    (done,) = warm_up(gpu, said.append).warmed
    assert msgspec.structs.replace(done, seconds=0.0) == Warmed("tiny", "cuda:0", "a GPU", "fp16", "", 7)
    assert said == [
        "tiny in fp16 on a GPU (cuda:0): checking the kernels",
        "tiny in fp16 on a GPU (cuda:0): compiling them",
    ]


def test_a_gpu_that_is_missing_is_a_problem_of_its_own(gpu: Task):
    models = [msgspec.structs.replace(gpu.models[0], strategy="cuda:1 fp16 -> cuda:0 fp16")]
    first, second = warm_up(msgspec.structs.replace(gpu, models=models), quiet).warmed
    assert (first.problem, second.problem) == ("there is no cuda:1", "")


def test_kernels_that_do_not_pass_are_not_tuned(gpu: Task, monkeypatch: pytest.MonkeyPatch):
    checks(monkeypatch, "wkv of 1 row computes wrongly")
    (done,) = warm_up(gpu, quiet).warmed
    assert (done.problem, done.tuned) == ("wkv of 1 row computes wrongly", 0)


def test_what_was_found_wrong_is_checked_anew_and_what_was_right_is_not(gpu: Task, monkeypatch: pytest.MonkeyPatch):
    asked = checks(monkeypatch)
    verdicts = Verdicts(Path(gpu.cache))
    for task, problem in ((gpu, ""), (gpu, "wkv computes wrongly"), (msgspec.structs.replace(gpu, again=True), "")):
        verdicts.keep(HERE, Verdict(HERE.name, "fp16", problem, 0.0))
        warm_up(task, quiet)
    assert asked == [False, True, True]


class WrongWhenWide(PlainOperators):
    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        super().product_add(x, y * 0.5, packed)


def test_what_is_wrong_only_at_full_size_is_found_and_no_load_will_take_it(gpu: Task, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warmup, "fused_operators", lambda device, cache: WrongWhenWide())
    (done,) = warm_up(gpu, quiet).warmed
    assert done.problem.startswith("layers of 128 are computed wrongly on a GPU in fp16: they are off by 0.")
    assert (kept := Verdicts(Path(gpu.cache)).find(HERE, "fp16")) is not None
    assert kept.problem == done.problem
    assert kept.stands(kept.when + 1e9)


def test_weights_that_a_format_cannot_hold_speak_against_no_kernels(gpu: Task, tmp_path: Path):
    state = tiny_state_dict(5, layers=2, vocabulary=300)
    state["head.weight"][7] = 1e30
    write_pth(tmp_path / "tiny.pth", state)
    (done,) = warm_up(gpu, quiet).warmed
    assert done.problem == "these weights are too large for fp16: PyTorch itself computes no finite numbers with them"
    assert Verdicts(Path(gpu.cache)).find(HERE, "fp16") is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("CUDA error: out of memory\nmore of it"), "RuntimeError: CUDA error: out of memory"),
        (UnsupportedCheckpoint("tiny.pth is damaged."), "tiny.pth is damaged."),
    ],
)
def test_what_goes_wrong_with_one_model_leaves_the_others(
    gpu: Task, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
):
    whole = warmup.Rehearsal

    def rehearsal(path: Path, *numbers: object) -> Rehearsal:
        if path.stem == "bad":
            raise error
        return whole(path, *numbers)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(warmup, "Rehearsal", rehearsal)
    models = [Model("bad", "bad.pth", "cuda fp16", 1), *gpu.models]
    bad, good = warm_up(msgspec.structs.replace(gpu, models=models), quiet).warmed
    assert (bad.problem, good.problem) == (told, "")


def test_without_a_compiler_nothing_is_begun(gpu: Task, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warmup, "toolchain_problem", lambda: "Triton needs a C compiler")
    assert warm_up(gpu, quiet) == Report("Triton needs a C compiler")


def test_the_process_says_that_pytorch_finds_no_gpu(tmp_path: Path):
    task = Task([Model("tiny", "tiny.pth", "cuda fp16", 1)], str(tmp_path), 256)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "cortexd.rwkv.warmup"],
        input=msgspec.json.encode(task), capture_output=True, env=environment, check=True,
    )  # fmt: skip
    assert msgspec.json.decode(done.stdout, type=Report) == Report("PyTorch finds no GPU")
