"""`cortexd verify`, from a file on the disk to what is said of it."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cortexd.cli.main import cli
from cortexd.errors import CortexdError
from cortexd.rwkv.quality import compare
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
    _, bf16, int8 = compare(tmp_path / "fp32.pth", ["cpu bf16", "cpu int8"], TEXT)
    assert 0.0 < bf16.kl < int8.kl < 0.1
    assert bf16.same_top >= int8.same_top > 0.5
