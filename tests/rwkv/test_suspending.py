"""Sequences saved between any two steps and gone on with elsewhere: what they say is what they would have said."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
import torch

from cortexd.rwkv.intake import Intake
from cortexd.rwkv.prompt import template_for
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.sampling import SamplerState, sample
from cortexd.rwkv.scheduler import Scheduler
from cortexd.rwkv.sequence import SavedSequence, Sequence
from cortexd.rwkv.state import SavedState
from cortexd.rwkv.tokenizer import ByteTokenizer
from cortexd.wire import ChatPrompt, Delta, Generate, Sampling, TextPrompt, Turn
from tests.checkpoint_files import tiny_state_dict, write_pth

TOKENIZER = ByteTokenizer()
BIAS = {0: -100.0}  # id 0 ends a text
PENALISED = Sampling(
    seed=7, logit_bias=BIAS, presence_penalty=0.3, frequency_penalty=0.2, penalty_decay=0.99, temperature=1.3
)
REQUESTS = [
    Generate(id=1, prompt=TextPrompt("Hello"), sampling=PENALISED, max_tokens=12),
    Generate(id=2, prompt=TextPrompt("x" * 300), sampling=Sampling(seed=8, logit_bias=BIAS), max_tokens=9, echo=True),
    Generate(
        id=3,
        prompt=ChatPrompt([Turn("user", "Who are you?")]),
        sampling=Sampling(seed=9, logit_bias=BIAS, order="rwkv", frequency_penalty=0.5),
        max_tokens=10,
        stop=["\x00\x01", "never this"],
    ),
    Generate(
        id=4, prompt=TextPrompt("I wait for a slot"), sampling=Sampling(temperature=0.0, logit_bias=BIAS), max_tokens=6
    ),
]
STEPS = 24  # that all of them take at most, three at a time


class Engine:
    """Runner, scheduler and sampler, without a process around them."""

    def __init__(self, path: Path) -> None:
        self.runner = Runner(str(path), "cpu fp32", 3, lambda done, total: None)
        self.scheduler = Scheduler(self.runner.pool, 256)

    def ask(self, requests: Iterable[Generate]) -> None:
        intake = Intake(self.runner.shape, TOKENIZER, template_for("think", "tiny"), 4096)
        for request in requests:
            self.scheduler.add(intake.sequence(request))

    def step(self) -> list[Delta]:
        chosen = self.scheduler.schedule()
        if not chosen:
            return []
        logits, rows = self.runner.run([sequence.next_piece() for sequence in chosen])
        deltas: list[Delta] = []
        for i, row in enumerate(rows):
            (token,) = sample(logits[i : i + 1], [chosen[row].sampler])
            if (delta := chosen[row].accept(token)) is not None:
                deltas.append(delta)
                if delta.finish is not None:
                    self.scheduler.finish(chosen[row])
        return deltas

    def save(self) -> list[tuple[int, bytes]]:
        def packed(state: SavedState | None) -> bytes:
            return state.pack() if state is not None else b""

        return [(it.id, msgspec.msgpack.encode(it.save(packed(state)))) for it, state in self.scheduler.take_out()]

    def adopt(self, saved: list[tuple[int, bytes]]) -> None:
        for id, data in saved:
            it = msgspec.msgpack.decode(data, type=SavedSequence)
            state = self.runner.pool.unpack(it.state) if it.state else None
            self.scheduler.add(Sequence.restored(id, it, state, TOKENIZER))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.pth"
    write_pth(path, tiny_state_dict(1, layers=2, vocabulary=257))
    return path


def say_all(
    engine: Engine, before_step: Callable[[int, Engine], Engine] = lambda step, engine: engine, steps: int = STEPS
) -> dict[int, list[object]]:
    """For each answer its text, reasoning, finish and usage."""
    said: dict[int, list[object]] = {}
    engine.ask(REQUESTS)
    for step in range(steps):
        engine = before_step(step, engine)
        for delta in engine.step():
            text, reasoning, *_ = said.get(delta.id, ["", "", None, None])
            said[delta.id] = [f"{text}{delta.text}", f"{reasoning}{delta.reasoning}", delta.finish, delta.usage]
    engine.scheduler.check_idle()
    return said


def moved(engine: Engine, path: Path) -> Engine:
    saved = engine.save()
    engine.scheduler.check_idle()  # nothing of them is left
    new = Engine(path)
    new.runner.pool.wkv[:] = torch.nan  # whatever is not restored would show
    new.adopt(saved)
    return new


def test_answers_do_not_depend_on_the_step_at_which_they_are_suspended(tiny: Path):
    expected = say_all(Engine(tiny))
    assert len(expected) == len(REQUESTS)
    assert all(finish is not None for _, _, finish, _ in expected.values())
    for at in range(STEPS):
        assert (
            say_all(Engine(tiny), lambda step, engine, at=at: moved(engine, tiny) if step == at else engine) == expected
        )


def test_answers_may_be_suspended_before_every_step(tiny: Path):
    assert say_all(Engine(tiny), lambda _, engine: moved(engine, tiny)) == say_all(Engine(tiny))


def test_a_suspended_answer_may_be_suspended_again_before_it_has_a_slot(tiny: Path):
    def thrice(step: int, engine: Engine) -> Engine:
        return moved(moved(moved(engine, tiny), tiny), tiny) if step == 5 else engine

    assert say_all(Engine(tiny), thrice) == say_all(Engine(tiny))


@pytest.mark.parametrize("at", [1, 2, 3, 6, 9])
def test_who_gives_up_its_slot_for_a_higher_priority_says_what_it_would_have_said(tiny: Path, at: int):
    urgent = Generate(id=9, prompt=TextPrompt("Now!"), sampling=PENALISED, max_tokens=5, priority=1)

    def interrupted(step: int, engine: Engine) -> Engine:
        if step == at:
            engine.runner.pool.wkv[:, list(engine.runner.pool._free)] = torch.nan
            engine.ask([urgent])
        return engine

    expected, said = say_all(Engine(tiny), steps=2 * STEPS), say_all(Engine(tiny), interrupted, steps=2 * STEPS)
    assert said.pop(9)[2] == "length"
    assert said == expected


def test_a_character_begun_before_is_completed_after():
    it = Sequence(
        1, [1], tokenizer=TOKENIZER, sampler=SamplerState(PENALISED), stops=["ÖEND"], reply=None, max_tokens=99
    )
    shown = ""
    for byte in "é🙂ÖE ÖEND after".encode():
        delta = it.accept(byte + 1)
        if delta is not None:
            shown += delta.text
            if delta.finish:
                break
        data = msgspec.msgpack.encode(it.save(b""))
        it = Sequence.restored(1, msgspec.msgpack.decode(data, type=SavedSequence), None, TOKENIZER)
    assert shown == "é🙂ÖE "


def test_the_bytes_of_another_model_are_no_state(tiny: Path):
    pool = Engine(tiny).runner.pool
    with pytest.raises(ValueError, match="no state of this model"):
        pool.unpack(b"1234")
