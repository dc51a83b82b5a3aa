"""Drawing on a device for sequences that come, go and move, against drawing on the host."""

import msgspec
import pytest
import torch

from cortexd.rwkv.device_drawing import DeviceDrawing
from cortexd.rwkv.drawing import Drawing
from cortexd.rwkv.sampling import SamplerState
from cortexd.wire import Sampling
from cortexd_kernels.fused.sampling import sample

VOCABULARY, BANNED, UNCOUNTED = 60, [11, 12], frozenset({7})
PENALTIES = Sampling(presence_penalty=0.4, frequency_penalty=0.6, penalty_decay=0.9)


class Both:
    """The same sequences on the device and on the host."""

    def __init__(self, slots: int) -> None:
        self._host = Drawing(BANNED, None)
        device = DeviceDrawing(sample, slots, BANNED, UNCOUNTED)
        self.device = Drawing(BANNED, None, device)
        self._twins: dict[int, tuple[SamplerState, SamplerState]] = {}

    def begin(self, slot: int, sampling: Sampling, seed: int) -> None:
        settings = msgspec.structs.replace(sampling, seed=seed)
        self._twins[slot] = SamplerState(settings, UNCOUNTED), SamplerState(settings, UNCOUNTED)

    def move(self, slot: int, to: int) -> None:
        """As a sequence does that was set aside."""
        mine, host = self._twins.pop(slot)
        self._twins[to] = SamplerState.restored(mine.save(), UNCOUNTED), host

    def draw(self, slots: list[int]) -> list[int | None]:
        """One token for each, which both agree upon."""
        logits = torch.randn(len(slots), VOCABULARY)
        logits[:, 7] += 2.0
        logits[:, 11] += 9.0
        found = self.device.draw(logits, [self._twins[slot][0] for slot in slots], slots)
        assert found == self._host.draw(logits, [self._twins[slot][1] for slot in slots], slots)
        for slot in slots:
            mine, host = self._twins[slot]
            assert (mine.step, mine.occurrences) == (host.step, host.occurrences)
        return found


def test_each_sequence_is_penalised_for_its_own_tokens_whoever_had_its_slot_before():
    both = Both(slots=3)
    both.begin(2, PENALTIES, seed=1)
    both.begin(0, msgspec.structs.replace(PENALTIES, order="rwkv", top_p=0.8), seed=2)
    both.begin(1, Sampling(), seed=3)
    for _ in range(5):
        both.draw([2, 0, 1])
    both.begin(2, PENALTIES, seed=4)
    both.begin(1, PENALTIES, seed=5)
    for slots in ([1, 2], [0], [2, 1, 0]):
        both.draw(slots)


def test_a_sequence_that_comes_back_in_another_slot_is_penalised_for_what_it_said():
    both = Both(slots=3)
    both.begin(0, PENALTIES, seed=1)
    both.begin(1, PENALTIES, seed=2)
    for _ in range(4):
        both.draw([0, 1])
    both.move(0, to=2)
    both.begin(0, PENALTIES, seed=3)
    for _ in range(4):
        both.draw([2, 0, 1])


def test_biases_are_those_of_the_sequence_alone():
    both = Both(slots=2)
    both.begin(0, Sampling(logit_bias={3: 30.0}), seed=1)
    both.begin(1, Sampling(logit_bias={4: -100.0, 5: 30.0}), seed=2)
    assert both.draw([1, 0]) == [5, 3]
    both.begin(0, Sampling(logit_bias={9: 30.0}), seed=3)
    assert both.draw([0, 1]) == [9, 5]
    both.begin(0, Sampling(), seed=4)
    both.draw([0, 1])


def test_what_was_released_is_written_again():
    both = Both(slots=1)
    both.begin(0, msgspec.structs.replace(PENALTIES, logit_bias={3: 4.0}), seed=1)
    for _ in range(3):
        both.draw([0])
        both.device.release()


def test_a_row_without_a_finite_number_draws_nothing_and_its_sequence_stays_where_it_is():
    drawing = Drawing(BANNED, None, DeviceDrawing(sample, 2, BANNED, UNCOUNTED))
    states = [SamplerState(PENALTIES), SamplerState(PENALTIES)]
    logits = torch.randn(2, VOCABULARY)
    logits[0] = torch.nan
    nothing, token = drawing.draw(logits, states, [1, 0])
    assert nothing is None
    assert token is not None
    assert [state.step for state in states] == [0, 1]


@pytest.mark.parametrize(
    "drawing", [Drawing(BANNED, None, DeviceDrawing(sample, 1, BANNED, UNCOUNTED)), Drawing(BANNED, None)]
)
def test_of_no_row_nothing_is_drawn(drawing: Drawing):
    assert drawing.draw(torch.empty(0, VOCABULARY), [], []) == []
