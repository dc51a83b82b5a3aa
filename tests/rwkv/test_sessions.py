"""Sessions in real workers: the next turn begins where the last one ended, whoever has forgotten what, and not a bit changes."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from cortexd import session_files, wire
from cortexd.rwkv import recollections, sessions
from cortexd.session_files import SessionFile, SessionKey
from cortexd.wire import CacheLimits, Generate, InitialState, Sampling, TextPrompt, TokenPrompt, Turn
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.rwkv.test_caching import HI, OFF, Answer, Desk, OpenDesk, chat, desks, next_turn, poet, same, tiny

__all__ = ["desks", "poet", "tiny"]  # fixtures

SESSIONS_ALONE = CacheLimits(sessions=1)  # nothing else is kept
FIRST = chat(Turn("system", "Be brief, but kind to everyone."), HI)
HELLO = chat(HI)
NEW = len("User: And what can you do?\n\nAssistant:")  # tokens of the next turn
OpenSession = Callable[..., Desk]


@pytest.fixture
def opened(desks: OpenDesk, tiny: Path, tmp_path: Path) -> OpenSession:
    """A worker that keeps sessions and nothing else, all of them in the same place."""

    def make(model: Path = tiny, kept: CacheLimits = SESSIONS_ALONE, **load: object) -> Desk:
        return desks(model, kept, sessions=tmp_path / "sessions", model="goose", **load)

    return make


def found(place: Path) -> list[SessionFile]:
    return sorted(session_files.found(place / "sessions"), key=lambda file: file.head.key.name)


def written(desk: Desk) -> None:
    """Until all is on the disk; it takes no more."""
    desk.rest()
    assert desk.worker._sessions is not None
    desk.worker._sessions.close()


def problems(desk: Desk) -> list[str]:
    """What has been told of every turn that was to be kept."""
    desk._receive()
    return [report.problem for report in desk.reports if isinstance(report, wire.SessionKept)]


def unread(answer: Answer) -> int:
    return answer.usage.prompt_tokens - answer.usage.cached_tokens


@pytest.mark.parametrize("tuned", [False, True])
def test_the_next_turn_reads_the_new_message_alone_in_another_worker_that_knows_nothing_else(
    opened: OpenSession, desks: OpenDesk, tiny: Path, poet: InitialState, tmp_path: Path, tuned: bool
):
    state = poet if tuned else None
    plain, desk = desks(tiny, OFF), opened()
    answer = desk.ask(FIRST, state, tokens=100, session="a/b")
    written(desk)
    (file,) = found(tmp_path)
    assert (file.head.key, file.head.model, file.head.turns) == (SessionKey("", "a/b"), "goose", 1)
    second = next_turn(FIRST, answer)
    other = opened()
    answered = other.ask(second, state, session="a/b")
    assert same(answered, plain.ask(second, state))
    assert unread(answered) == NEW
    written(other)
    (file,) = found(tmp_path)
    assert file.head.turns == 2
    third = next_turn(second, answered)
    again = opened().ask(third, state, session="a/b")
    assert unread(again) == NEW
    assert same(again, plain.ask(third, state))


def test_a_continued_text_is_a_session_too(opened: OpenSession, tmp_path: Path):
    prompt = TextPrompt("All work and no play makes Jack a dull goose. " * 20)
    desk = opened()
    answer = desk.ask(prompt, tokens=300, session="book")
    written(desk)
    assert (
        opened().ask(TextPrompt(prompt.text + answer.text + " And so on."), session="book").usage.cached_tokens > 1100
    )


def test_what_is_no_turn_of_the_session_begins_anew_and_is_what_it_goes_on_with(opened: OpenSession, tmp_path: Path):
    desk = opened()
    answer = desk.ask(FIRST, tokens=50, session="chat")
    written(desk)
    for prompt, session, state in (
        (next_turn(FIRST, answer), "another", None),
        (next_turn(FIRST, answer), "", None),
        (chat(Turn("user", "Something else. " * 9)), "chat", None),
    ):
        assert opened().ask(prompt, state, session=session).usage.cached_tokens == 0


def test_a_session_is_not_found_with_other_weights_and_is_kept_for_both(opened: OpenSession, tmp_path: Path):
    other = tmp_path / "other.pth"
    write_pth(other, tiny_state_dict(2, layers=2, vocabulary=257))
    desk, another = opened(), opened(other)
    second = next_turn(FIRST, desk.ask(FIRST, tokens=50, session="chat"))
    written(desk)
    assert another.ask(second, session="chat").usage.cached_tokens == 0
    written(another)
    assert len(found(tmp_path)) == 2
    assert unread(opened().ask(second, session="chat")) == NEW


@pytest.mark.parametrize("harm", [b"", b"cortexd session\n", b"nothing like it" * 99])
def test_a_damaged_file_costs_reading_the_prompt_and_no_more(opened: OpenSession, tmp_path: Path, harm: bytes):
    desk = opened()
    second = next_turn(FIRST, desk.ask(FIRST, tokens=50, session="chat"))
    written(desk)
    (file,) = found(tmp_path)
    whole = file.path.read_bytes()
    for damaged in (harm, whole[:-9], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.path.write_bytes(damaged)
        again = opened()
        assert again.ask(second, session="chat").usage.cached_tokens == 0
        written(again)
        assert [file.head.turns for file in found(tmp_path)] in ([1], [2])


@pytest.mark.parametrize("end", [Desk.close, lambda desk: desk.worker.obey(wire.Park())], ids=["ends", "parks"])
def test_the_last_turn_is_kept_even_if_its_worker_ends_or_parks_at_once(
    opened: OpenSession, end: Callable[[Desk], None]
):
    desk = opened()
    answer = desk.ask(FIRST, tokens=200, session="chat")
    assert desk.worker._recollections.busy
    end(desk)
    assert desk.worker._sessions is not None
    desk.worker._sessions.close()
    assert unread(opened().ask(next_turn(FIRST, answer), session="chat")) == NEW


def test_a_turn_is_kept_though_others_wait_for_its_slot(opened: OpenSession, tmp_path: Path):
    desk = opened(slots=1)
    crowd = [desk.give(TextPrompt(f"Goose number {n}"), tokens=30) for n in range(3)]
    turn = desk.give(FIRST, tokens=300, session="chat")
    last = [desk.give(TextPrompt("Another"), tokens=30) for _ in range(3)]
    desk.answers([*crowd, turn])
    assert desk.worker._recollections.busy
    desk.answers(last[:1])
    written(desk)
    assert len(found(tmp_path)) == 1


def test_many_turns_that_end_together_are_all_kept_and_of_one_session_the_last(opened: OpenSession, tmp_path: Path):
    desk = opened()
    ids = [desk.give(chat(Turn("user", f"I am number {n}")), session=f"chat {n}") for n in range(8)]
    desk.answers(ids)
    answer = desk.ask(FIRST, session="chat 0")
    written(desk)
    assert [file.head.key.name for file in found(tmp_path)] == [f"chat {n}" for n in range(8)]
    assert unread(opened().ask(next_turn(FIRST, answer), session="chat 0")) == NEW


@pytest.mark.parametrize("tuned", [False, True])
def test_an_answer_that_went_on_in_another_worker_is_kept_there(
    opened: OpenSession, desks: OpenDesk, tiny: Path, poet: InitialState, tmp_path: Path, tuned: bool
):
    state = poet if tuned else None
    desk, other = opened(), opened()
    id = desk.give(FIRST, state, tokens=50, session="chat")
    said = "".join(delta.text for _ in range(20) for delta in desk.step())
    saved = desk.suspend()
    for number, part in enumerate(saved, 1):
        other.worker.obey(wire.Adopt(id, part.part, last=number == len(saved)))
    while other.worker._scheduler.running or other.worker._scheduler.waiting:
        said += "".join(delta.text for delta in other.step())
    written(other)
    (file,) = found(tmp_path)
    assert file.head.tokens == len(desk.worker._intake._template.told(FIRST, said).encode())
    second = chat(*FIRST.turns, Turn("assistant", said), Turn("user", "And what can you do?"))
    again = opened().ask(second, state, session="chat")
    assert unread(again) == NEW
    assert same(again, desks(tiny, OFF).ask(second, state))


def test_a_turn_whose_tuned_state_has_gone_is_not_kept_and_that_is_told(
    opened: OpenSession, poet: InitialState, tmp_path: Path
):
    desk = opened()
    id = desk.give(FIRST, poet, tokens=20, session="chat")
    desk.step()
    Path(poet.path).unlink()
    desk.worker._intake.states.clear()
    desk.answers([id])
    written(desk)
    assert not found(tmp_path)
    assert problems(desk) == ["the state that it began from cannot be read any more"]


def test_turns_that_are_too_many_to_be_kept_are_told(opened: OpenSession, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recollections, "_MOST_OWED", 1)
    desk = opened()
    desk.answers([desk.give(HELLO, tokens=5, session=f"chat {n}") for n in range(4)])
    written(desk)
    assert sorted(problems(desk)) == ["", ""] + ["too many turns have ended at once"] * 2  # one is read, one waits


def test_a_turn_for_which_the_disk_is_too_slow_is_told(
    opened: OpenSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "_MOST_WAITING", 0)
    going_on = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda fd: going_on.wait())
    desk = opened()
    desk.answers([desk.give(HELLO, tokens=5, session=f"chat {n}") for n in range(2)])
    desk.rest()
    going_on.set()
    written(desk)
    assert sorted(problems(desk)) == ["", "the disk is too slow"]
    assert len(found(tmp_path)) == 1


def test_a_turn_that_no_slot_is_left_for_at_the_end_is_told(opened: OpenSession):
    desk = opened(slots=1)
    desk.ask(HELLO, tokens=5, session="chat")
    desk.worker._recollections.clear()
    ended = desk.worker._intake.sequence(Generate(id=9, prompt=HELLO, sampling=Sampling(), session="chat"))
    desk.give(FIRST, tokens=20)
    desk.step()
    desk.worker._recollections.add(ended)
    desk.worker._close()
    assert problems(desk) == ["its worker ended while others computed"]


def test_a_session_that_is_removed_while_its_worker_ends_does_not_come_back(opened: OpenSession, tmp_path: Path):
    class Inbox:
        commands: ClassVar = [[wire.ForgetSession("", "chat")], [wire.Shutdown()]]

        def take(self, patience: float | None) -> list[wire.Command]:
            return self.commands.pop()

    desk = opened()
    desk.answers([desk.give(HELLO, session="chat"), desk.give(HELLO, session="another")])
    desk.worker._inbox = Inbox()
    desk.worker.run()
    assert [file.head.key.name for file in found(tmp_path)] == ["another"]


@pytest.mark.parametrize("moment", ["said", "owed", "read", "written"])
def test_a_session_that_is_removed_does_not_come_back_whenever_that_is(
    opened: OpenSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    going_on = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda fd: going_on.wait())
    desk, session = opened(), SessionKey("", "chat")
    turns = [desk.give(FIRST, session="first"), desk.give(FIRST, session="chat")]
    desk.step()
    if moment != "said":
        desk.answers(turns)
        assert [turn.session for turn in desk.worker._recollections._owed] == [session]
    while moment == "read" and desk.worker._recollections._session != session:
        desk.step()
    if moment == "written":
        desk.rest()
    desk.worker.obey(wire.ForgetSession("", "chat"))
    going_on.set()
    desk.answers([desk.give(HELLO, session="another")])
    written(desk)
    assert [file.head.key.name for file in found(tmp_path)] == ["another", "first"]


@pytest.mark.parametrize(
    "kept", [CacheLimits(), CacheLimits(sessions=1, enabled=False)], ids=["no room", "nothing is kept"]
)
def test_switched_off_no_session_is_kept_nor_found(opened: OpenSession, tmp_path: Path, kept: CacheLimits):
    off, desk = opened(kept=kept), opened()
    off.ask(FIRST, session="chat")
    written(off)
    assert not found(tmp_path)
    second = next_turn(FIRST, desk.ask(FIRST, session="chat"))
    written(desk)
    assert opened(kept=kept).ask(second, session="chat").usage.cached_tokens == 0
    desk.worker.obey(kept)
    assert desk.ask(second, session="chat").usage.cached_tokens == 0


def test_of_token_ids_nobody_knows_how_they_go_on(opened: OpenSession, tmp_path: Path):
    desk = opened()
    desk.ask(TokenPrompt([65, 66]), session="chat")
    written(desk)
    assert not found(tmp_path)


def test_what_cannot_be_written_is_told_and_what_was_there_stays(
    opened: OpenSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    desk, other = opened(), opened()
    answer = desk.ask(FIRST, session="chat")
    written(desk)
    second = next_turn(FIRST, answer)
    monkeypatch.setattr(os, "fsync", full)
    other.ask(second, session="chat")
    written(other)
    other._receive()
    assert wire.SessionKept("", "chat", "No space left on device") in other.reports
    (file,) = found(tmp_path)
    assert file.head.turns == 1
    assert not list((tmp_path / "sessions").rglob("*.part"))


def test_what_is_owed_to_a_session_is_kept_although_everything_else_is_forgotten(opened: OpenSession, tmp_path: Path):
    desk = opened()
    desk.ask(FIRST, session="a")
    desk.worker.obey(wire.ForgetStates())
    written(desk)
    assert [file.head.key.name for file in found(tmp_path)] == ["a"]


def test_who_waits_for_a_slot_does_not_wait_long_for_what_is_owed_to_a_session(opened: OpenSession):
    desk = opened(kept=CacheLimits(sessions=1, host=2**30), slots=2)
    desk.give(TextPrompt("A stream"), tokens=10_000)
    owed = desk.give(FIRST, tokens=400, session="a")
    while not any(delta.id == owed and delta.finish for delta in desk.step()):
        pass
    desk.give(TextPrompt("I wait"), tokens=5)
    steps = 0
    while desk.worker._scheduler.waiting:
        desk.step()
        steps += 1
    assert steps < 16  # of which else one would be for it
