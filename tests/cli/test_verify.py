"""`cortexd verify`, from a file on the disk to what is said of it."""

import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cortexd.cli import verify as command
from cortexd.cli.main import cli
from cortexd.errors import CortexdError
from cortexd.rwkv import inspection, runner
from cortexd.rwkv.inspection import Report, Task, inspect
from cortexd.rwkv.quality import compare
from cortexd_kernels.native.library import Native
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.kernels.native_library import native_or_skip

TEXT = "The tide was against us, and the tide does not read timetables. " * 3


@pytest.fixture
def goose(tmp_path: Path) -> Path:
    write_pth(tmp_path / "goose.pth", tiny_state_dict(1, layers=2, vocabulary=257, dtype=torch.bfloat16))
    return tmp_path / "goose.pth"


def verify(*arguments: object) -> str:
    done = CliRunner().invoke(cli, ["verify", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_whole_checkpoint_is_described_in_one_line(goose: Path):
    said = verify(goose)
    assert said.startswith("goose.pth: RWKV-7, 2 layers of")
    assert said.endswith("; all of it is there.\n")


def test_a_number_that_is_none_is_found_and_its_tensor_named(tmp_path: Path):
    state = tiny_state_dict(1, layers=2, vocabulary=257)
    state["blocks.1.ffn.value.weight"][3, 4] = float("nan")
    write_pth(tmp_path / "bad.pth", state)
    with pytest.raises(CortexdError, match=r"bad\.pth is damaged: blocks\.1\.ffn\.value\.weight holds"):
        verify(tmp_path / "bad.pth")


def test_a_checkpoint_that_is_cut_off_is_refused(goose: Path):
    goose.write_bytes(goose.read_bytes()[:-1000])
    with pytest.raises(CortexdError, match=r"goose\.pth"):
        verify(goose)


def test_quality_is_told_for_programs_too(goose: Path, tmp_path: Path):
    native_or_skip()
    (tmp_path / "text").write_text(TEXT)
    said = json.loads(verify(goose, "--strategy", "cpu int8", "--text", tmp_path / "text", "--json"))
    exact, rounded = said["quality"]
    assert (exact["strategy"], exact["kl"], exact["same_top"]) == ("cpu fp32", 0.0, 1.0)
    assert rounded["strategy"] == "cpu int8"
    assert 0.0 < rounded["kl"] <= rounded["worst_kl"]
    assert rounded["weight_bytes"] < exact["weight_bytes"] / 2


def test_a_text_too_short_to_tell_anything_is_refused(goose: Path, tmp_path: Path):
    (tmp_path / "text").write_text("Hello.")
    with pytest.raises(CortexdError, match=r"6 tokens; give one with at least 64"):
        verify(goose, "--text", tmp_path / "text")


def test_bf16_weights_lose_nothing_that_was_not_lost_when_they_were_stored(goose: Path):
    native_or_skip()
    exact, same = compare(goose, ["cpu bf16"], TEXT)
    assert same.kl < 1e-9
    assert same.perplexity == pytest.approx(exact.perplexity)


def test_the_fewer_bits_the_further_from_fp32(tmp_path: Path):
    native_or_skip()
    write_pth(tmp_path / "fp32.pth", tiny_state_dict(2, layers=3, vocabulary=257))
    _, bf16, int8, int4 = compare(tmp_path / "fp32.pth", ["cpu bf16", "cpu int8", "cpu int4"], TEXT)
    assert 0.0 < bf16.kl < int8.kl < int4.kl < 1.0
    assert bf16.same_top >= int8.same_top > int4.same_top
    assert bf16.weight_bytes > int8.weight_bytes > int4.weight_bytes


# Within this process, for it takes a second to make another


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (inspection, runner):
        monkeypatch.setattr(place, "open_native", lambda: Native(None, "", "there is no compiler"))


def looked_at(path: Path, **task: object) -> Report:
    return inspect(Task(str(path), threads=torch.get_num_threads(), **task))


def test_what_a_trainer_notes_beside_its_tensors_is_no_damage(tmp_path: Path):
    state = tiny_state_dict(1, layers=2, vocabulary=257)
    write_pth(tmp_path / "noted.pth", {**state, "epoch": 5, "run": "a"})
    assert looked_at(tmp_path / "noted.pth") == Report("")


def test_two_bytes_that_have_changed_are_found_though_every_number_is_finite(goose: Path):
    whole = goose.read_bytes()
    middle = len(whole) // 2
    goose.write_bytes(whole[:middle] + bytes(byte ^ 1 for byte in whole[middle : middle + 2]) + whole[middle + 2 :])
    problem = looked_at(goose).problem
    assert problem.startswith("goose.pth is damaged: goose/data/")
    assert problem.endswith(" in it is not what was written; download it again.")


def test_heads_that_nothing_computes_are_told_before_a_load_is_tried(tmp_path: Path):
    write_pth(tmp_path / "odd.pth", tiny_state_dict(1, layers=1, heads=4, head_size=32, vocabulary=257))
    assert looked_at(tmp_path / "odd.pth").problem == "odd.pth has heads of 32 channels; RWKV-7 models have 64."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "There is not enough memory to look at goose.pth."),
        (RuntimeError("[enforce fail] can't allocate memory: 9."), "There is not enough memory to look at goose.pth."),
        (RuntimeError("it broke.\nat 0x1"), "goose.pth could not be looked at: it broke."),
        (OSError("Input/output error"), "goose.pth could not be looked at: Input/output error."),
    ],
)
def test_too_little_memory_is_one_sentence(goose: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "isfinite", fail)
    assert looked_at(goose) == Report(said)


@pytest.mark.usefixtures("no_native")
def test_without_native_kernels_the_rest_is_compared_and_what_is_named_is_refused(goose: Path):
    report = looked_at(goose, strategies=["cpu bf16", "cpu fp16", "cpu int8", "cpu int4"], lenient=True, text=TEXT)
    assert [found.strategy for found in report.quality] == ["cpu fp32", "cpu bf16"]
    assert report.left_out == ["cpu fp16", "cpu int8", "cpu int4"]
    report = looked_at(goose, strategies=["cpu int8"], text=TEXT)
    assert report.problem.startswith("The strategy 'cpu int8' needs the native kernels, which are not there")


def test_an_empty_text_is_no_reason_to_compare_on_another(goose: Path):
    assert looked_at(goose, strategies=["cpu bf16"], text="").problem.startswith("The text has 0 tokens")


def test_what_is_left_out_is_said_beside_the_report(goose: Path, monkeypatch: pytest.MonkeyPatch):
    tasks: list[dict[str, object]] = []

    def answer(task: dict[str, object]) -> dict[str, object]:
        tasks.append(task)
        return {"problem": "", "quality": [], "left_out": ["cpu fp16", "cpu int8"]}

    monkeypatch.setattr(command, "_inspect", answer)
    done = CliRunner().invoke(cli, ["verify", str(goose), "--quality"])
    assert done.stderr == "Left out, as the native kernels are not there: cpu fp16, cpu int8.\n"
    CliRunner().invoke(cli, ["verify", str(goose), "--strategy", "cpu bf16"])
    assert [(task["lenient"], task["text"]) for task in tasks] == [(True, None), (False, None)]


def test_a_path_that_is_not_in_utf8_is_one_sentence(goose: Path):
    strange = goose.rename(goose.with_name(os.fsdecode(b"b\xff.pth")))
    with pytest.raises(CortexdError) as raised:
        verify(strange)
    assert raised.value.message == "b\N{REPLACEMENT CHARACTER}.pth has a path that is not in UTF-8; rename it."
