"""A warm-up with the kernels themselves: what a model asks for is tuned once, and what was found is what it then computes with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cortexd.rwkv import rehearsal, warmup
from cortexd.rwkv.rehearsal import Rehearsal
from cortexd.rwkv.state import Home
from cortexd.rwkv.warmup import Task
from cortexd_kernels import tuning
from cortexd_kernels.choices import FORMULA, Product, kept_choices
from cortexd_kernels.hardware import Hardware
from cortexd_kernels.tuning import Choice, Question
from tests.checkpoint_files import tiny_state_dict, write_pth

HERE = Hardware("a GPU", "9.0", "570")
KEY = Product(256, 64, torch.float32, torch.float32)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    write_pth(tmp_path / "tiny.pth", tiny_state_dict(5, layers=1, heads=1, vocabulary=40))
    monkeypatch.setattr(rehearsal, "steps", lambda sequences, prefill: [[1], [9]])
    monkeypatch.setattr(rehearsal, "_draw", lambda operators, logits: None)  # which takes the interpreter long
    return Rehearsal(tmp_path / "tiny.pth", torch.float32, Home(), 1, 128)


def test_what_is_asked_for_is_tuned_once_and_computed_with(
    tiny: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Question] = []

    def answer(question: Question, device: torch.device, measure: Callable[..., float]) -> Choice:
        asked.append(question)
        assert measure is tuning.measure_on_gpu
        return tuning.CANDIDATES[question.kind](question.product, question.count)[-1]

    monkeypatch.setattr(tuning, "answer", answer)
    said: list[str] = []
    monkeypatch.setattr(warmup, "hardware_of", lambda device: HERE)
    monkeypatch.setattr("cortexd_kernels.dispatch.hardware_of", lambda device: HERE)
    task = Task([], str(tmp_path), 128)
    count = warmup._tune(task, tiny, HERE, said.append)
    assert count == len(asked) == len(said) > 4
    assert {question.kind for question in asked} == {"vector", "tile", "split"}
    assert said[0] == f"tuning 1 of {count}: {asked[0].name}"
    chosen = kept_choices(tmp_path, HERE)
    assert chosen.vector(KEY) == tuning.CANDIDATES["vector"](KEY, 0)[-1] != FORMULA.vector(KEY)
    assert warmup._tune(task, tiny, HERE, said.append) == 0
