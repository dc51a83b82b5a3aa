"""Prompts that are found again in a real worker: not a bit of any answer changes, and only what is new is read."""

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cortexd import wire
from cortexd.checkpoints.header import Header
from cortexd.checkpoints.shape import ModelShape, identify
from cortexd.checkpoints.tensor import TensorHeader
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.intake import Intake
from cortexd.rwkv.pace import Pace
from cortexd.rwkv.prefix_cache import PrefixCache
from cortexd.rwkv.prompt import template_for
from cortexd.rwkv.reading import Reading, tokens_of
from cortexd.rwkv.sequence import Sequence
from cortexd.rwkv.tokenizer import WorldTokenizer, tokenizer_for
from cortexd.rwkv.worker import Worker
from cortexd.wire import CacheLimits, ChatPrompt, Delta, Generate, InitialState, Prompt, Sampling, TextPrompt, Turn
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.tuned_states import tuned_state, write_state

KEPT = CacheLimits(host=2**30, disk=2**30)
OFF = CacheLimits(enabled=False)
NO_END = {0: -100.0}  # id 0 ends a text
LONG = TextPrompt("All work and no play makes Jack a dull goose. " * 20)  # 920 tokens
HI = Turn("user", "Hello, who are you? " * 5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.pth"
    write_pth(path, tiny_state_dict(1, layers=2, vocabulary=257))
    return path


@pytest.fixture
def poet(tmp_path: Path) -> InitialState:
    return InitialState(str(write_state(tmp_path / "poet.safetensors", tuned_state(1))), "hash of the poet")


class NoInbox:
    """Commands are given by hand."""


@dataclass
class Answer:
    text: str
    usage: wire.Usage
    first: Tensor  # the logits that its first token was drawn from


class Desk:
    """A worker without a process: it is told what to do and does it step by step."""

    def __init__(self, checkpoint: Path, kept: CacheLimits = KEPT, states: Path | None = None, **load: object) -> None:
        self._ours, theirs = socket.socketpair()
        fields: dict[str, object] = {"slots": 4, "strategy": "cpu fp32", **load}
        command = wire.Load(path=str(checkpoint), kept=kept, states=str(states or ""), **fields)
        self.worker = Worker(theirs, NoInbox(), command)  # type: ignore[arg-type]  # nobody asks it
        self._frames = wire.FrameReader()
        self.reports: list[wire.Report] = []  # all that there have been
        self._first: dict[int, Tensor] = {}
        self._run = self.worker.runner.run
        self.worker.runner.run = self._watched  # type: ignore[method-assign]  # to see the logits
        self._receive()
        self._next = 0

    def close(self) -> None:
        self.worker._close()
        self._ours.close()
        self.worker._sock.close()

    def ask(self, prompt: Prompt, state: InitialState | None = None, tokens: int = 20, session: str = "") -> Answer:
        (answer,) = self.answers([self.give(prompt, state, tokens, session)])
        return answer

    def ask_all(self, prompts: list[Prompt], state: InitialState | None = None, tokens: int = 20) -> list[Answer]:
        ids = [self.give(prompt, state, tokens) for prompt in prompts]
        return self.answers(ids)

    def give(self, prompt: Prompt, state: InitialState | None = None, tokens: int = 20, session: str = "") -> int:
        self._next += 1
        sampling = Sampling(seed=5, logit_bias=NO_END)
        self.worker.obey(
            Generate(id=self._next, prompt=prompt, sampling=sampling, max_tokens=tokens, state=state, session=session)
        )
        return self._next

    def answers(self, ids: list[int]) -> list[Answer]:
        texts, usages = dict.fromkeys(ids, ""), dict.fromkeys(ids, wire.Usage(0, 0))
        left = set(ids)
        while left:
            for delta in self.step():
                texts[delta.id] = texts.get(delta.id, "") + delta.text
                if delta.finish is not None:
                    left.discard(delta.id)
                    assert delta.usage is not None
                    usages[delta.id] = delta.usage
        return [Answer(texts[id], usages[id], self._first[id]) for id in ids]

    def step(self) -> list[Delta]:
        self.worker.step()
        return [delta for report in self._receive() if isinstance(report, wire.Step) for delta in report.deltas]

    def rest(self) -> None:
        """Until it has nothing to do any more."""
        while self.worker._recollections.busy:
            assert not self.step()
        self.worker._scheduler.check_idle()

    def suspend(self) -> list[wire.Saved]:
        self.worker.obey(wire.Suspend())
        return [report for report in self._receive() if isinstance(report, wire.Saved)]

    def _receive(self) -> list[wire.Report]:
        self._ours.setblocking(False)
        found: list[wire.Report] = []
        while True:
            try:
                data = self._ours.recv(1 << 20)
            except BlockingIOError:
                self.reports += found
                return found
            found += [wire.decode_report(frame) for frame in self._frames.feed(data)]

    def _watched(self, pieces: list[Piece]) -> tuple[Tensor, list[int]]:
        logits, rows = self._run(pieces)
        for i, row in enumerate(rows):
            for sequence in self.worker._scheduler._running:
                if sequence.slot == pieces[row].slot:
                    self._first.setdefault(sequence.id, logits[i].clone())
        return logits, rows


@pytest.fixture
def desks() -> Iterator["OpenDesk"]:
    """Makes desks, and closes them at the end."""
    with contextlib.ExitStack() as stack:

        def make(*args: Any, **load: Any) -> Desk:
            desk = Desk(*args, **load)
            stack.callback(desk.close)
            return desk

        yield make


OpenDesk = Callable[..., Desk]


def same(one: Answer, other: Answer) -> bool:
    return one.text == other.text and torch.equal(one.first, other.first)


def chat(*turns: Turn, effort: wire.Effort | None = None) -> ChatPrompt:
    return ChatPrompt(list(turns), effort)


def next_turn(before: ChatPrompt, answer: Answer, text: str = "And what can you do?") -> ChatPrompt:
    return msgspec.structs.replace(before, turns=[*before.turns, Turn("assistant", answer.text), Turn("user", text)])


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16"])
@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("template", ["chat", "think", "fast"])
def test_the_next_turn_reads_the_new_message_alone_and_not_a_bit_of_its_answer_changes(
    desks: OpenDesk, tiny: Path, poet: InitialState, tmp_path: Path, strategy: str, tuned: bool, template: str
):
    state = poet if tuned else None
    plain = desks(tiny, OFF, strategy=strategy, template=template)
    desk = desks(tiny, strategy=strategy, template=template, states=tmp_path / "states")
    first = chat(Turn("system", "Be brief, but kind to everyone."), HI, effort="low")
    answer = desk.ask(first, state, tokens=150)
    assert same(answer, plain.ask(first, state, tokens=150))
    desk.rest()
    second = next_turn(first, answer)
    found, expected = desk.ask(second, state), plain.ask(second, state)
    assert same(found, expected)
    assert expected.usage.cached_tokens == 0
    asked = len("User: And what can you do?\n\nAssistant:")
    assert (
        asked <= found.usage.prompt_tokens - found.usage.cached_tokens <= asked + len(" (think a bit) <think>\n</think")
    )
    desk.worker.obey(wire.Park())
    desk.worker._kept.close()
    after = desks(tiny, strategy=strategy, template=template, states=tmp_path / "states")
    from_disk = after.ask(second, state)
    assert same(from_disk, expected)
    assert from_disk.usage.cached_tokens >= found.usage.cached_tokens


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16"])
def test_a_long_text_goes_on_where_it_was_kept_to_the_last_bit(desks: OpenDesk, tiny: Path, strategy: str):
    plain, desk = desks(tiny, OFF, strategy=strategy), desks(tiny, strategy=strategy)
    desk.ask(LONG)
    assert desk.ask(LONG).usage.cached_tokens == 896
    longer, other = TextPrompt(LONG.text + "Or not?"), TextPrompt(LONG.text[:700] + "Something else happened then.")
    for prompt, cached in ((LONG, 896), (longer, 896), (other, 512)):
        found = desk.ask(prompt)
        assert found.usage.cached_tokens == cached
        assert same(found, plain.ask(prompt))


def test_an_answer_that_a_text_goes_on_behind_is_not_read_again_either(desks: OpenDesk, tiny: Path):
    desk, plain = desks(tiny), desks(tiny, OFF)
    answer = desk.ask(LONG, tokens=300)
    desk.rest()
    longer = TextPrompt(LONG.text + answer.text + " And so on.")
    found = desk.ask(longer)
    assert found.usage.cached_tokens > 1100
    assert same(found, plain.ask(longer))


def test_what_was_read_for_one_state_is_not_found_for_another(desks: OpenDesk, tiny: Path, poet: InitialState):
    desk, plain = desks(tiny), desks(tiny, OFF)
    desk.ask(LONG)
    found = desk.ask(LONG, poet)
    assert found.usage.cached_tokens == 0
    assert same(found, plain.ask(LONG, poet))


def test_many_chats_side_by_side_find_what_they_found_alone(desks: OpenDesk, tiny: Path):
    desk, plain = desks(tiny), desks(tiny, OFF)
    chats: list[Prompt] = [chat(Turn("user", f"I am goose number {n}. " * n)) for n in range(1, 9)]
    answers = desk.ask_all(chats, tokens=40)
    desk.rest()
    again: list[Prompt] = [
        next_turn(it, said) for it, said in zip(chats, answers, strict=True) if isinstance(it, ChatPrompt)
    ]
    for found, expected in zip(desk.ask_all(again), plain.ask_all(again), strict=True):
        assert same(found, expected)
        assert found.usage.prompt_tokens - found.usage.cached_tokens == len("User: And what can you do?\n\nAssistant:")


def test_a_short_chat_of_many_messages_takes_one_step_and_each_of_its_ends_is_found(desks: OpenDesk, tiny: Path):
    desk, plain = desks(tiny), desks(tiny, OFF)
    turns = [
        Turn("system", "Be brief."),
        Turn("user", "Who are you?"),
        Turn("assistant", "Yes?"),
        Turn("user", "Go on."),
    ]
    told = ["System: Be brief.", "User: Who are you?", "Assistant: Yes?"]
    desk.give(chat(*turns), tokens=1)
    assert [delta.finish for delta in desk.step()] == ["length"]
    for begun in range(1, 4):
        other = chat(*turns[:begun], Turn("user", "Something else?"))
        found = desk.ask(other)
        assert same(found, plain.ask(other))
        assert found.usage.cached_tokens == len("\n\n".join([*told[:begun], ""]))


def test_who_waits_for_a_slot_gets_that_of_what_is_read_again(desks: OpenDesk, tiny: Path):
    desk = desks(tiny, slots=1)
    first = chat(HI)
    answer = desk.ask(first, tokens=600)
    desk.step()
    assert desk.worker._recollections.busy
    assert desk.ask(next_turn(first, answer), tokens=2).text
    desk.rest()


def test_beside_a_stream_what_was_answered_is_read_again_now_and_then(desks: OpenDesk, tiny: Path):
    desk = desks(tiny)
    first = chat(HI)
    stream = desk.give(TextPrompt("Tell me everything."), tokens=2000)
    answer = desk.ask(first, tokens=300)
    steps = 0
    while desk.worker._recollections.busy:
        desk.step()
        steps += 1
    assert steps > 48  # several pieces
    assert desk.ask(next_turn(first, answer)).usage.cached_tokens
    assert desk.answers([stream])[0].usage.completion_tokens == 2000


@pytest.mark.parametrize("steps", [0, 2, 5, 30])
def test_an_answer_that_went_on_in_another_worker_is_found_there(
    desks: OpenDesk, tiny: Path, poet: InitialState, steps: int
):
    plain, desk, other = desks(tiny, OFF), desks(tiny), desks(tiny)
    first = chat(Turn("system", "Be kind. " * 60), HI)
    expected = plain.ask(first, poet, tokens=50)
    id = desk.give(first, poet, tokens=50)
    said = "".join(delta.text for _ in range(steps) for delta in desk.step())
    saved = desk.suspend()
    for number, part in enumerate(saved, 1):
        other.worker.obey(wire.Adopt(id, part.part, last=number == len(saved)))
    other._next, other._first[id] = 100, expected.first
    (answer,) = other.answers([id])
    assert said + answer.text == expected.text
    other.rest()
    second = next_turn(first, expected)
    found = other.ask(second, poet)
    assert same(found, plain.ask(second, poet))
    # Behind its prompt, a suspended answer leaves what it began from: without a kept beginning there is nothing to go on from.
    assert found.usage.cached_tokens or steps > 5


def test_switched_off_or_forgotten_nothing_is_found_and_switched_on_it_is_again(
    desks: OpenDesk, tiny: Path, tmp_path: Path
):
    desk = desks(tiny, states=tmp_path)
    desk.ask(LONG)
    desk.worker.obey(OFF)
    assert desk.ask(LONG).usage.cached_tokens == 0
    desk.worker.obey(KEPT)
    assert desk.ask(LONG).usage.cached_tokens == 896
    desk.worker.obey(wire.ForgetStates())
    assert desk.ask(LONG).usage.cached_tokens == 0
    desk.worker.obey(wire.ForgetStates())
    desk.worker._kept.close()
    assert not list(tmp_path.rglob("*.state"))


def test_parked_it_holds_no_states_and_finds_those_on_the_disk(desks: OpenDesk, tiny: Path, tmp_path: Path):
    desk = desks(tiny, states=tmp_path)
    desk.ask(LONG)
    desk.worker.obey(wire.Park())
    assert desk.worker._kept.held == 0
    desk.worker.obey(wire.Resume())
    assert desk.ask(LONG).usage.cached_tokens == 896


class Stingy(Pace):
    """Never room for a whole piece."""

    def __init__(self) -> None:
        super().__init__(0.05, 256, exact=True)
        self._chance = random.Random(1)

    def room(self, streams: int, piece: int) -> int:
        return self._chance.randint(0 if streams else 1, 50)


def test_however_little_of_a_prompt_is_read_at_once_not_a_bit_of_its_answer_changes(desks: OpenDesk, tiny: Path):
    plain, desk = desks(tiny, OFF), desks(tiny)
    if not desk.worker.runner.exact_cuts:
        pytest.skip("the kernels of this machine do not compute prompts the same however they are cut")
    desk.worker._scheduler.pace = Stingy()
    prompts: list[Prompt] = [chat(Turn("system", "Be kind. " * 30), HI), LONG, TextPrompt("Hello")]
    for found, expected in zip(desk.ask_all(prompts, tokens=60), plain.ask_all(prompts, tokens=60), strict=True):
        assert same(found, expected)
    desk.rest()
    assert desk.ask(LONG).usage.cached_tokens == 896
    assert same(desk.ask(LONG), plain.ask(LONG))


# Many conversations, with the tokenizer and the templates of real models, but no model


class Pretender:
    """Reads prompts as a worker does, without computing anything."""

    def __init__(self, template: str) -> None:
        self.tokenizer = tokenizer_for(WorldTokenizer.vocabulary)
        self.template = template_for(template, "")
        self.intake = Intake(_world_shape(), self.tokenizer, self.template, 10**6)
        self.cache: PrefixCache[Nothing] = PrefixCache()
        self.cache.limit(CacheLimits(host=10**9))

    def answer(self, prompt: ChatPrompt, text: str) -> Sequence:
        sequence = self.intake.sequence(Generate(id=1, prompt=prompt, sampling=Sampling(), max_tokens=1))
        self._read(sequence.reading)
        sequence._said = [text]
        if (reading := self.intake.recollection(sequence)) is not None:
            self._read(reading)
        return sequence

    def tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text))

    def _read(self, reading: Reading) -> None:
        self.cache.resume(reading)
        while reading.left:
            reading.next()
            self.cache.note(reading, Nothing)


class Nothing:
    nbytes = 1


def _world_shape() -> ModelShape:
    state = tiny_state_dict(0, layers=1, heads=1, head_size=2, vocabulary=2)
    tensors = {name: TensorHeader("F32", tuple(x.shape), x.nbytes, "") for name, x in state.items()}
    shape = identify(Header(name="tiny", format="pth", tensors=tensors, metadata={}))
    return msgspec.structs.replace(shape, vocabulary=WorldTokenizer.vocabulary)


texts = st.text(max_size=200) | st.lists(
    st.sampled_from(["\n\n", "\n", " ", "User:", "Hi!", "é", "🙂", "<think>", "."])
).map("".join)


@settings(deadline=None, max_examples=150)
@given(
    template=st.sampled_from(["chat", "think", "fast"]),
    effort=st.sampled_from([None, "none", "low", "high"]),
    system=st.none() | texts,
    exchanges=st.lists(st.tuples(texts, texts), min_size=2, max_size=6),
)
def test_each_turn_reads_its_new_message_and_no_more(
    template: str, effort: wire.Effort | None, system: str | None, exchanges: list[tuple[str, str]]
):
    model = Pretender(template)
    turns = [Turn("system", system)] if system is not None else []
    for number, (asked, answered) in enumerate(exchanges):
        turns.append(Turn("user", asked))
        sequence = model.answer(chat(*turns, effort=effort), answered)
        if number:
            new = model.template.render(chat(Turn("user", asked), effort=effort))
            assert sequence.prompt_tokens - sequence.reading.cached == model.tokens(new.text)
        turns.append(Turn("assistant", answered))


def test_the_pieces_of_a_prompt_are_its_tokens():
    model = Pretender("chat")
    text = "User: Hi!\n\nAssistant:"
    sequence = model.answer(chat(Turn("user", "Hi!")), "")
    pieces: Iterator[int] = (token for piece in sequence.reading.pieces for token in tokens_of(piece))
    assert list(pieces) == model.tokenizer.encode(text)


def test_an_answer_is_read_again_only_when_nobody_has_asked_for_a_while(desks: OpenDesk, tiny: Path):
    desk = desks(tiny)
    desk.ask(ChatPrompt([HI]))
    worker = desk.worker
    assert worker._recollections.busy
    assert 0.0 < (worker._patience() or 0.0) <= 0.25
    worker._answered -= 1.0  # seconds ago
    assert worker._patience() == 0.0
    while worker._recollections.busy:
        desk.step()
    assert worker._patience() is None
