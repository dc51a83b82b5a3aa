import itertools
from pathlib import Path

import hypothesis.strategies as st
import pytest
import rwkv
from hypothesis import example, given, settings
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from cortexd.errors import BadRequest, LoadFailed, UnsupportedCheckpoint
from cortexd.rwkv import tokenizer as module
from cortexd.rwkv.tokenizer import ByteTokenizer, TextDecoder, Tokenizer, WorldTokenizer, tokenizer_for


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return WorldTokenizer()


@pytest.fixture(scope="module")
def official() -> TRIE_TOKENIZER:
    return TRIE_TOKENIZER(str(Path(rwkv.__file__).with_name("rwkv_vocab_v20230424.txt")))


def decoded(tokenizer: Tokenizer, tokens: list[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, tokens))


words = [
    "\r\n",
    "\n\n",
    "\0",
    " ",
    "\t",
    "User:",
    "Assistant:",
    " <think",
    "你好",
    "世界",
    "🙂",
    "👩‍👩‍👧",
    "é",
    "e\u0301",
    "def f(x):",
    "1234",
]
texts = st.text(max_size=200) | st.lists(st.sampled_from(words) | st.text(max_size=5), max_size=40).map("".join)


@settings(deadline=None, max_examples=300)
@given(texts)
@example("")
@example("\0\0\0")
@example("\r\n" * 300)
@example(" " * 1000 + "\n" * 1000 + "a" * 1000)
@example("🙂" * 500)
@example("The quick brown fox, 你好世界 🙂\n\n" * 20)
def test_the_world_tokenizer_agrees_with_the_official_one(
    world: WorldTokenizer, official: TRIE_TOKENIZER, text: str
) -> None:
    tokens = world.encode(text)
    assert tokens == official.encode(text)
    assert decoded(world, tokens) == text.encode()


def test_every_token_of_the_world_vocabulary_is_the_official_one(
    world: WorldTokenizer, official: TRIE_TOKENIZER
) -> None:
    assert {id: data for id in range(65536) if (data := world.token_bytes(id))} == official.idx2token


def test_ids_without_text_have_no_bytes_and_are_banned(world: WorldTokenizer) -> None:
    assert world.banned == list(range(65530, 65536))
    assert all(world.token_bytes(id) == b"" for id in [0, *world.banned])
    assert world.end_of_text not in world.banned


def test_blanks_and_digits_are_not_counted_as_in_chatrwkv(world: WorldTokenizer, official: TRIE_TOKENIZER) -> None:
    expected = {id for id in official.idx2token if official.decode([id]) in " \t0123456789"}
    assert world.uncounted == expected
    bytes_ = ByteTokenizer()
    assert {bytes_.token_bytes(id) for id in bytes_.uncounted} == {bytes([b]) for b in b" \t0123456789"}


@given(st.text(max_size=100))
def test_bytes_are_their_own_tokens(text: str) -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    assert [token - 1 for token in tokens] == list(text.encode())
    assert decoded(tokenizer, tokens) == text.encode()


def test_the_byte_tokenizer_has_no_text_for_the_end() -> None:
    assert ByteTokenizer().token_bytes(0) == b""
    assert ByteTokenizer().token_bytes(256) == b"\xff"
    assert list(ByteTokenizer().banned) == []


@pytest.mark.parametrize("rows", [257, 65536])
@pytest.mark.parametrize("text", ["\ud800", "fine until \udfff here", "\udc00\ud800"])
def test_half_a_character_is_the_clients_mistake(rows: int, text: str) -> None:
    with pytest.raises(BadRequest, match="surrogate pair"):
        tokenizer_for(rows).encode(text)


@pytest.mark.parametrize("rows", [257, 65536])
def test_encoding_ends_soon_after_the_limit(rows: int) -> None:
    tokenizer, text = tokenizer_for(rows), "one two three four " * 50
    tokens = tokenizer.encode(text)
    assert tokenizer.encode(text, 10) == tokens[:11]
    assert tokenizer.encode(text, len(tokens)) == tokens
    assert tokenizer.encode(text, 0) == tokens[:1]


@pytest.mark.parametrize("rows", [257, 65536])
@pytest.mark.parametrize("id", [-1, None])
def test_ids_outside_the_vocabulary_are_a_programming_error(rows: int, id: int | None) -> None:
    with pytest.raises(AssertionError):
        tokenizer_for(rows).token_bytes(rows if id is None else id)


def test_each_vocabulary_gets_its_tokenizer() -> None:
    assert isinstance(tokenizer_for(257), ByteTokenizer)
    assert isinstance(tokenizer_for(65536), WorldTokenizer)
    with pytest.raises(UnsupportedCheckpoint, match="50277"):
        tokenizer_for(50277)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:100],
        lambda lines: [*lines, "65530 'ab' 3"],
        lambda lines: [*lines, "70000 'ab' 2"],
        lambda lines: [*lines, "65530 print(1) 2"],
        lambda lines: [*lines, "65530 'a 2"],
        lambda lines: [*lines, "words"],
        lambda lines: [*lines, "65530 12 2"],
    ],
    ids=["cut off", "wrong length", "too many", "code", "open quote", "not a line", "number"],
)
def test_a_damaged_vocabulary_is_refused_in_one_sentence(
    damage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = module._world_path().read_text(encoding="utf-8").split("\n")[:-1]
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join(damage(lines)), encoding="utf-8")
    monkeypatch.setattr(module, "_world_path", lambda: path)
    with pytest.raises(LoadFailed, match="damaged"):
        WorldTokenizer()


def test_a_vocabulary_with_windows_line_ends_is_the_same(world: WorldTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(module._world_path().read_bytes().replace(b"\n", b"\r\n"))
    assert module._read_vocabulary(path, 65536) == [world.token_bytes(id) for id in range(65536)]


def test_a_missing_vocabulary_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORLD", "no_such_file.txt")
    with pytest.raises(LoadFailed, match="install pyrwkv-tokenizer"):
        WorldTokenizer()


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), st.lists(st.integers(0, 40), max_size=10))
@example("🙂".encode(), [1, 2, 3])
@example(b"\xf0\x9f", [])
@example(b"\xf0\x9fa\xff\xe4\xbd", [1, 2, 3, 4, 5])
def test_decoding_in_pieces_is_decoding_as_a_whole(data: bytes, cuts: list[int]) -> None:
    decoder, text = TextDecoder(), ""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        text += decoder.feed(data[start:end])
    assert text + decoder.finish() == data.decode(errors="replace")


def test_half_a_character_is_never_released() -> None:
    decoder = TextDecoder()
    assert [decoder.feed(bytes([b])) for b in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert decoder.finish() == ""
    assert decoder.feed(b"ok\xf0\x9f") == "ok"
    assert decoder.finish() == "\ufffd"
