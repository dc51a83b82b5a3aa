"""Prompts encoded message by message: the same tokens, and each message once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.errors import BadRequest
from cortexd.rwkv.prompt import LABELS
from cortexd.rwkv.segments import Segments
from cortexd.rwkv.tokenizer import ByteTokenizer, Tokenizer, WorldTokenizer, tokenizer_for

PARTS = st.sampled_from(
    [*(f"{label}:" for label in LABELS), *LABELS, "\n", "\n\n", "\n\n\n", " ", ":", "a", "the", "é", "猫", "User"]
)
TEXTS = st.lists(PARTS | st.text(max_size=5).filter(lambda text: text.isprintable()), max_size=30).map("".join)


class Counting(ByteTokenizer):
    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        self.asked.append(text)
        return super().encode(text, limit)


@pytest.fixture(scope="module", params=[257, WorldTokenizer.vocabulary])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_for(request.param)


def test_no_token_reaches_from_a_blank_line_into_a_label():
    world = tokenizer_for(WorldTokenizer.vocabulary)
    tokens = [world.token_bytes(id) for id in range(1, world.vocabulary) if id not in world.banned]
    for label in (f"{label}:".encode() for label in LABELS):
        for cut in range(1, len(label) + 1):
            assert not any(token.endswith(b"\n" + label[:cut]) for token in tokens)
        assert not any(b"\n" + label in token for token in tokens)


@given(text=TEXTS, limit=st.integers(0, 60))
def test_tokens_are_those_of_the_whole_text(tokenizer: Tokenizer, text: str, limit: int):
    segments = Segments(tokenizer, room=40)
    for _ in range(2):
        assert segments.encode(text, limit) == tokenizer.encode(text)[: limit + 1]


def test_a_message_is_encoded_once_whatever_comes_after_it():
    tokenizer = Counting()
    segments = Segments(tokenizer)
    first = "User: Hello\n\nAssistant: Hi\n\n"
    segments.encode(first, 1000)
    tokenizer.asked.clear()
    segments.encode(first + "User: And now?\n\nAssistant:", 1000)
    assert tokenizer.asked == ["User: And now?\n\n", "Assistant:"]


def test_no_more_is_kept_than_there_is_room_for():
    tokenizer = Counting()
    segments = Segments(tokenizer, room=10)
    for text in ("12345", "abcde", "12345", "vwxyz", "12345", "abcde"):
        segments.encode(text, 100)
    assert tokenizer.asked == ["12345", "abcde", "vwxyz", "abcde"]


def test_what_is_cut_off_at_the_limit_is_not_taken_for_the_whole():
    segments = Segments(ByteTokenizer())
    assert len(segments.encode("abcdef", 3)) == 4
    assert len(segments.encode("abcdef", 100)) == 6


def test_what_is_no_text_is_refused_as_by_the_tokenizer(tokenizer: Tokenizer):
    with pytest.raises(BadRequest):
        Segments(tokenizer).encode("\ud800", 10)
