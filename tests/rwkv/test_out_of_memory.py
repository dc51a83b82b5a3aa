"""A GPU without memory: fewer answers at a time, and where there is no room for one a refusal."""

from pathlib import Path

import pytest
import torch

from cortexd.checkpoints.shape import ModelShape
from cortexd.errors import LoadFailed
from cortexd.rwkv import runner
from cortexd.rwkv.checkpoint import no_report
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.state import StatePool
from tests.rwkv.fused_model import write_tiny

STRATEGY = "cpu fp32 *1 -> cpu fp32"


def full(*args: object, **kwargs: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 3 MiB free.")


class Small(StatePool):
    """On a device that has room for so many sequences."""

    room = 0

    def __init__(self, shape: ModelShape, slots: int, placement: object = None) -> None:
        if slots > self.room:
            full()
        super().__init__(shape, slots)


@pytest.mark.parametrize(("room", "slots"), [(32, 16), (15, 8), (5, 4), (1, 1)])
def test_where_there_is_no_room_for_all_answers_fewer_are_computed_at_a_time(
    room: int, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "StatePool", Small)
    monkeypatch.setattr(Small, "room", room)
    assert Runner(str(write_tiny(tmp_path)), STRATEGY, 16, no_report).pool.slots == slots


def test_where_there_is_no_room_for_one_the_load_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "StatePool", Small)
    with pytest.raises(
        LoadFailed, match=r"no memory for the state of a single answer \(CUDA out of memory\): end what else"
    ):
        Runner(str(write_tiny(tmp_path)), STRATEGY, 16, no_report)


def test_weights_that_have_no_room_are_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "FusedRwkv7", full)
    with pytest.raises(
        LoadFailed, match=r"no memory for tiny.pth, layers .* on cpu in fp32 \(CUDA out of memory\): .*'cuda int8'"
    ):
        Runner(str(write_tiny(tmp_path)), STRATEGY, 2, no_report)
