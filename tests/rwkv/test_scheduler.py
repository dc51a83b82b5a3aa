"""Who takes part in a step: joining and leaving between any two, prompts beside running streams, slots never lost."""

import pytest

from cortexd.checkpoints.header import Header
from cortexd.checkpoints.shape import identify
from cortexd.checkpoints.tensor import TensorHeader
from cortexd.rwkv.batch import PIECE, Batch, Piece
from cortexd.rwkv.sampling import SamplerState
from cortexd.rwkv.scheduler import Scheduler
from cortexd.rwkv.sequence import Sequence
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.tokenizer import ByteTokenizer
from cortexd.wire import Sampling
from tests.checkpoint_files import tiny_state_dict


def pool(slots: int) -> StatePool:
    state = tiny_state_dict(0, layers=1, heads=1, head_size=16, vocabulary=257)
    tensors = {name: TensorHeader("F32", tuple(x.shape), x.nbytes, "") for name, x in state.items()}
    return StatePool(identify(Header(name="tiny", format="pth", tensors=tensors, metadata={})), slots)


def sequence(
    id: int, prompt: int = 1, max_tokens: int = 100, stops: tuple[str, ...] = (), priority: int = 0
) -> Sequence:
    return Sequence(
        id,
        [1] * prompt,
        tokenizer=ByteTokenizer(),
        sampler=SamplerState(Sampling()),
        stops=stops,
        reply=None,
        max_tokens=max_tokens,
        priority=priority,
    )


def step(scheduler: Scheduler, token: int = 66) -> dict[int, int]:
    """Tokens that each sequence was fed in this step; those whose prompt is over draw `token`."""
    fed: dict[int, int] = {}
    for chosen in scheduler.schedule():
        piece = chosen.next_piece()
        fed[chosen.id] = len(piece.tokens)
        if piece.wants_logits:
            delta = chosen.accept(token)
            if delta is not None and delta.finish is not None:
                scheduler.finish(chosen)
    return fed


def test_a_new_sequence_joins_the_next_step():
    scheduler = Scheduler(pool(4), 256)
    scheduler.add(sequence(1))
    assert step(scheduler) == {1: 1}
    scheduler.add(sequence(2, prompt=5))
    assert step(scheduler) == {1: 1, 2: 5}
    assert step(scheduler) == {1: 1, 2: 1}


def test_prompts_take_no_more_than_their_budget_beside_running_streams():
    scheduler = Scheduler(pool(4), 2 * PIECE)
    scheduler.add(sequence(1))
    step(scheduler)
    scheduler.add(sequence(2, prompt=3 * PIECE))
    scheduler.add(sequence(3, prompt=10))
    assert step(scheduler) == {1: 1, 2: PIECE, 3: 10}
    assert step(scheduler) == {1: 1, 2: PIECE, 3: 1}


def test_a_piece_larger_than_the_budget_is_still_computed():
    scheduler = Scheduler(pool(4), 1)
    scheduler.add(sequence(1, prompt=PIECE))
    assert step(scheduler) == {1: PIECE}


def test_sequences_beyond_the_slots_wait_in_order():
    scheduler = Scheduler(pool(2), 256)
    for id in (1, 2, 3):
        scheduler.add(sequence(id, max_tokens=2))
    assert set(step(scheduler)) == {1, 2}
    assert scheduler.waiting == 1
    assert set(step(scheduler)) == {1, 2}
    assert set(step(scheduler)) == {3}


def test_many_short_prompts_are_read_in_one_step():
    scheduler = Scheduler(pool(8), 256)
    for id in range(8):
        scheduler.add(sequence(id, prompt=30))
    assert step(scheduler) == dict.fromkeys(range(8), 30)


def test_a_short_prompt_does_not_wait_for_a_long_one_that_came_before():
    scheduler = Scheduler(pool(4), PIECE)
    scheduler.add(sequence(1, prompt=64 * PIECE))
    step(scheduler)
    scheduler.add(sequence(2, prompt=100))
    assert 2 in {**step(scheduler), **step(scheduler)}


def test_a_long_prompt_is_read_however_many_short_ones_come():
    scheduler = Scheduler(pool(4), PIECE)
    scheduler.add(sequence(0, prompt=8 * PIECE))
    read = 0
    for id in range(1, 16):
        scheduler.add(sequence(id, prompt=PIECE, max_tokens=1))
        read += step(scheduler).get(0, 0)
    assert read >= 7 * PIECE


def test_who_has_the_higher_priority_gets_a_slot_first_then_who_came_first():
    scheduler = Scheduler(pool(1), 256)
    for id, priority in ((1, 0), (2, 0), (3, 5), (4, -5), (5, 5)):
        scheduler.add(sequence(id, max_tokens=1, priority=priority))
    assert [next(iter(step(scheduler))) for _ in range(5)] == [3, 5, 1, 2, 4]


def test_of_those_of_lower_priority_who_came_last_gives_up_its_slot_and_gets_the_next_one():
    scheduler = Scheduler(pool(2), 256)
    for id in (1, 2, 3):
        scheduler.add(sequence(id, max_tokens=4))
    assert set(step(scheduler)) == {1, 2}
    scheduler.add(sequence(4, max_tokens=2, priority=1))
    assert set(step(scheduler)) == {1, 4}
    assert set(step(scheduler)) == {1, 4}
    assert set(step(scheduler)) == {1, 2}
    assert set(step(scheduler)) == {2, 3}
    scheduler.cancel(2)
    scheduler.cancel(3)
    scheduler.check_idle()


def test_nobody_gives_up_a_slot_for_another_of_the_same_priority():
    scheduler = Scheduler(pool(1), 256)
    scheduler.add(sequence(1, priority=3))
    step(scheduler)
    scheduler.add(sequence(2, priority=3))
    assert set(step(scheduler)) == {1}


def test_who_was_set_aside_is_taken_out_with_its_state_and_may_be_cancelled():
    it = pool(1)
    scheduler = Scheduler(it, 256)
    scheduler.add(sequence(1))
    step(scheduler)
    it.wkv[:, 0] = 7
    scheduler.add(sequence(2, priority=1))
    step(scheduler)
    (_, state), (_, aside) = sorted(scheduler.take_out(), key=lambda taken: -taken[0].id)
    assert state is not None
    assert aside is not None
    assert float(aside.wkv.min()) == 7.0
    scheduler.check_idle()


def test_cancelling_frees_a_slot_at_once_wherever_the_sequence_is():
    scheduler = Scheduler(pool(1), 256)
    scheduler.add(sequence(1))
    scheduler.add(sequence(2))
    step(scheduler)
    scheduler.cancel(2)
    scheduler.cancel(1)
    scheduler.cancel(99)
    scheduler.check_idle()
    assert step(scheduler) == {}


def test_a_lost_slot_is_noticed_when_idle():
    it = pool(2)
    scheduler = Scheduler(it, 256)
    it.take()
    with pytest.raises(AssertionError, match="held by nobody"):
        scheduler.check_idle()


def test_a_slot_is_clean_for_whoever_gets_it_next():
    it = pool(1)
    slot = it.take()
    it.wkv[:, slot] = 7
    it.give_back(slot)
    assert float(it.wkv[:, it.take()].abs().max()) == 0.0


def test_a_text_is_never_cut_inside_a_character_and_no_stop_leaks():
    it = sequence(1, stops=("END",))
    it.slot = 0
    shown = ""
    for byte in "é🙂 E EN END after".encode():
        delta = it.accept(byte + 1)
        if delta is not None:
            shown += delta.text
            if delta.finish:
                break
    assert shown == "é🙂 E EN "


def test_the_end_of_text_ends_a_sequence_and_is_not_counted():
    it = sequence(1)
    it.slot = 0
    it.next_piece()
    assert it.accept(66) is not None
    last = it.accept(0)
    assert last is not None
    assert last.finish == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens == 1


def test_a_batch_puts_single_tokens_first_and_remembers_whose_they_are():
    batch = Batch([Piece(3, [1, 2, 3]), Piece(1, [4]), Piece(2, [5, 6], wants_logits=False), Piece(0, [7])])
    assert batch.tokens.tolist() == [4, 7, 1, 2, 3, 5, 6]
    assert batch.slots.tolist() == [1, 0, 3, 2]
    assert (batch.first.tolist(), batch.last.tolist(), batch.ones) == ([0, 1, 2, 5], [0, 1, 4, 6], 2)
    assert batch.wanted.tolist() == [0, 1, 4]
    assert batch.wanted_pieces == [1, 3, 0]
