"""Recorded steps: the same numbers as steps that are computed anew, whoever is missing; and no state of others is touched."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cortexd.rwkv.graphs import Graphs
from cortexd_kernels.operators import Rows
from tests.rwkv.recording import recorded

SLOTS = 6
CPU = torch.device("cpu")


class Adder:
    """A model whose logits are what its slot has been fed until now, and the token."""

    def __init__(self) -> None:
        self.states = torch.zeros(SLOTS)
        self.computed = 0

    def __call__(self, tokens: Tensor, rows: Rows, chosen: Tensor) -> Tensor:
        self.computed += 1
        held = rows.slots >= 0
        before = torch.where(held, self.states[rows.slots.clamp(min=0)], 0.0)
        after = before + tokens
        self.states[rows.slots[held]] = after[held]
        return torch.stack((after, tokens.float()), 1)[chosen]


@pytest.mark.parametrize("streams", [1, 3, 4, 5])
def test_a_recorded_step_computes_what_an_eager_one_does(streams: int):
    adder, expected = Adder(), [0] * streams
    graphs = Graphs(CPU, recorded)
    slots = torch.randperm(SLOTS)[:streams].tolist()
    eager = 0
    for number in range(12):
        tokens = [number + 10 * i for i in range(streams)]
        expected = [before + token for before, token in zip(expected, tokens, strict=True)]
        logits = graphs.run(adder, tokens, slots)
        if logits is None:
            eager += 1
            adder(torch.tensor(tokens), Rows.of([1] * streams, slots), torch.arange(streams))
        else:
            assert logits.tolist() == [
                [float(total), float(token)] for total, token in zip(expected, tokens, strict=True)
            ]
        assert adder.states[slots].tolist() == expected
    assert 0 < eager < 12
    others = [slot for slot in range(SLOTS) if slot not in slots]
    assert not adder.states[others].any()


def test_what_has_no_recording_is_computed_anew():
    assert Graphs(CPU, recorded).run(Adder(), [1] * 1000, list(range(1000))) is None


def test_a_step_that_cannot_be_recorded_is_computed_anew_and_not_tried_again():
    tried: list[int] = []

    def full(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        tried.append(len(run()))
        raise torch.OutOfMemoryError("there is none left")

    graphs = Graphs(CPU, full)
    with pytest.warns(UserWarning, match="steps of 2 streams are not recorded.*there is none left"):
        assert [graphs.run(Adder(), [5, 5], [0, 1]) for _ in range(12)] == [None] * 12
    assert tried == [2]


def test_to_record_a_step_changes_no_state():
    adder = Adder()
    adder.states[:] = 7
    graphs = Graphs(CPU, recorded)
    while graphs.run(adder, [5, 5, 5], [0, 1, 2]) is None:
        assert not adder.computed
    assert adder.states.tolist() == [12, 12, 12, 7, 7, 7]
