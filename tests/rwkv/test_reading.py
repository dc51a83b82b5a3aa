"""Where prompts are cut: a longer prompt with the same beginning is cut at the same places, or nothing would be found again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.rwkv.batch import PIECE
from cortexd.rwkv.reading import Reading, message_ends, tokens_of
from cortexd.rwkv.tokenizer import ByteTokenizer, Tokenizer, WorldTokenizer, tokenizer_for

BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def world() -> Tokenizer:
    return tokenizer_for(WorldTokenizer.vocabulary)


def lengths(reading: Reading) -> list[int]:
    return [len(tokens_of(piece)) for piece in reading.pieces]


def positions(reading: Reading) -> dict[int, bool]:
    """After how many tokens states are kept, and whether on the disk."""
    return {sum(lengths(reading)[:count]): lasting for count, lasting in reading.kept.items()}


def of(text: str, *, closed: bool = False) -> Reading:
    return Reading.of(BYTES.encode(text), BYTES, closed=closed)


messages = st.tuples(st.sampled_from(["System", "User", "Assistant"]), st.text("ab \n!é", max_size=300))
chats = st.lists(messages, min_size=1, max_size=8).map(lambda chat: "".join(f"{who}: {text}\n\n" for who, text in chat))


@given(chats, chats)
@settings(deadline=None)
def test_a_prompt_that_goes_on_is_cut_as_it_was(world: Tokenizer, chat: str, more: str):
    for tokenizer in (BYTES, world):
        before = Reading.of(tokenizer.encode(chat), tokenizer, closed=True)
        after = Reading.of(tokenizer.encode(chat + more), tokenizer)
        assert len(before.pieces) in before.kept
        assert after.pieces[: len(before.pieces)] == before.pieces
        assert {count for count in after.kept if count <= len(before.pieces)} >= set(before.kept)


@given(st.integers(1, 3000), st.integers(1, 600))
@settings(deadline=None)
def test_a_text_without_messages_that_goes_on_is_found_where_it_was_kept(length: int, more: int):
    before, after = of("x" * length), of("x" * (length + more))
    for count in before.kept:
        assert after.pieces[:count] == before.pieces[:count]


@given(st.lists(st.integers(1, 256), min_size=1, max_size=3000))
@settings(deadline=None)
def test_the_pieces_are_the_prompt(tokens: list[int]):
    reading = Reading.of(tokens, BYTES)
    assert [token for piece in reading.pieces for token in tokens_of(piece)] == tokens
    assert all(0 < length <= PIECE for length in lengths(reading))


def test_states_are_kept_where_messages_end_and_at_powers_of_two():
    system, user = "System: Be kind.\n\n", f"User: {'x' * 600}\n\n"
    reading = of(f"{system}{user}Assistant:")
    assert positions(reading) == {len(system): False, 512: True, len(system + user): True}


def test_a_system_prompt_that_is_long_enough_for_a_file_is_kept_on_the_disk():
    system = f"System: {'Be kind. ' * 9}\n\n"
    assert positions(of(f"{system}User: Hi\n\nUser: Hello\n\nAssistant:"))[len(system)]


def test_where_the_last_message_begins_is_kept_on_the_disk_too():
    first, answer, second = f"User: {'a' * 40}\n\n", f"Assistant: {'b' * 40}\n\n", "User: c\n\n"
    kept = positions(of(f"{first}{answer}{second}Assistant:"))
    assert kept == {len(first): False, len(first + answer): True, len(first + answer + second): True}


def test_of_a_text_without_messages_what_comes_before_its_last_piece_is_kept():
    assert positions(of("x" * 300)) == {256: True}
    assert positions(of("x" * 1024)) == {512: True, 896: True}
    assert positions(of("x")) == {}


def test_a_closed_prompt_is_kept_at_its_end():
    user, answer = "User: Hi\n\n", "Assistant: Hello! What can I do?\n\n"
    assert positions(of(user + answer, closed=True)) == {len(user): False, len(user + answer): True}


def test_blank_lines_within_a_message_are_no_ends():
    data = [b"User: a", b"\n\n", b"b: c", b"\n\n", b" User: d", b"\n\n", b"User", b":"]
    assert message_ends(data) == [6]


def test_no_end_is_seen_inside_a_token():
    assert message_ends([b"User: a\n", b"\nUser", b": b"]) == []


def test_what_was_found_is_not_read():
    reading = of("x" * 300)
    reading.skip(2)
    assert (reading.cached, reading.next_length) == (256, 44)
    assert list(reading.next()) == BYTES.encode("x" * 44)
    assert not reading.left


def test_a_piece_may_be_read_in_parts_and_is_done_after_the_last():
    reading = of("x" * 300)
    assert [len(reading.next(100)) for _ in range(5)] == [100, 28, 100, 28, 44]
    assert not reading.left
    reading = of("x" * 300)
    reading.next(100)
    assert (reading.fresh, reading.done, reading.next_length, reading.length) == (False, 0, 28, 200)


def test_a_stretch_reaches_over_the_ends_of_pieces_and_tells_those_on_its_way():
    reading = of("x" * 300)
    tokens, ends = reading.stretch(200)
    assert (len(tokens), ends, reading.done, reading.begun) == (200, [(128, 1)], 1, 72)
    tokens, ends = reading.stretch(200)
    assert (len(tokens), ends, reading.left) == (100, [(56, 2)], False)
    reading = of("x" * 300)
    assert reading.stretch(256)[1] == [(128, 1)]  # at its own end the state is in the slot
