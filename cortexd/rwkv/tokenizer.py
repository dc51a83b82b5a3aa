"""Text to token ids and back: RWKV's World vocabulary, and plain bytes for models with 257 rows."""

import ast
import codecs
import functools
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from cortexd.errors import BadRequest, LoadFailed, UnsupportedCheckpoint

_WORLD = "rwkv_vocab_v20230424.txt"
_UNCOUNTED = b" \t0123456789"  # whose repetition ChatRWKV does not punish


class Tokenizer(Protocol):
    """The vocabulary of one model. `banned` ids stand for no text; `uncounted` ones for blanks and digits alone."""

    vocabulary: int  # rows of the model
    end_of_text: int
    banned: Sequence[int]
    uncounted: frozenset[int]

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """The ids of `text`; of a text with more than `limit` ids only the first `limit` + 1.

        Raises BadRequest where `text` is not Unicode. ids(a + b) is not ids(a) + ids(b).
        """
        ...

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for: often not whole characters, and nothing for `end_of_text` and `banned` ids."""
        ...


class ByteTokenizer:
    """Id 0 ends a text, id b + 1 is byte b."""

    vocabulary = 257
    end_of_text = 0
    banned: Sequence[int] = ()
    uncounted = frozenset(byte + 1 for byte in _UNCOUNTED)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        data = _utf8(text)
        return [byte + 1 for byte in (data if limit is None else data[: limit + 1])]

    def token_bytes(self, id: int) -> bytes:
        assert 0 <= id < self.vocabulary, "no such token"
        return bytes((id - 1,)) if id else b""


class WorldTokenizer:
    """The longest token that fits, again and again, over UTF-8 bytes.

    Only the vocabulary is pyrwkv-tokenizer's. Its encoder reads 65 MB/s where this one reads 2, but takes 230 MB of every
    process and 0.4 s of every load where this one takes 10 MB and 0.1 s.
    """

    vocabulary = 65536
    end_of_text = 0

    def __init__(self) -> None:
        self._bytes = _read_vocabulary(_world_path(), self.vocabulary)
        self._ids = {data: id for id, data in enumerate(self._bytes) if data}
        self._lengths = _lengths(self._ids)
        self.banned: Sequence[int] = [id for id, data in enumerate(self._bytes) if id and not data]
        self.uncounted = frozenset(id for id, data in enumerate(self._bytes) if data and data in _UNCOUNTED)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        data = _utf8(text)
        ids, lengths, single = self._ids, self._lengths, (1,)
        most = len(data) if limit is None else limit
        tokens: list[int] = []
        at = 0
        while at < len(data) and len(tokens) <= most:
            for length in lengths.get(data[at : at + 2], single):
                if (id := ids.get(data[at : at + length])) is not None:
                    break
            else:
                raise RuntimeError("every byte is a token of its own")
            tokens.append(id)
            # Near the end of the text the slice, and with it the token, may be shorter than `length`.
            at += length
        return tokens

    def token_bytes(self, id: int) -> bytes:
        assert 0 <= id < self.vocabulary, "no such token"
        return self._bytes[id]


class TextDecoder:
    """Turns the bytes of tokens into text; what is not UTF-8 becomes U+FFFD. `pending` begins a character."""

    def __init__(self, pending: bytes = b"") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.setstate((pending, 0))

    @property
    def pending(self) -> bytes:
        """What has arrived of a character that is not complete."""
        return self._decoder.getstate()[0]

    def feed(self, data: bytes) -> str:
        """The characters that are complete by now."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Replacement characters for what was left incomplete."""
        return self._decoder.decode(b"", final=True)


@functools.cache
def tokenizer_for(vocabulary_rows: int) -> Tokenizer:
    """The tokenizer of a model with so many rows, made once; raises UnsupportedCheckpoint where none is known."""
    if vocabulary_rows == ByteTokenizer.vocabulary:
        return ByteTokenizer()
    if vocabulary_rows == WorldTokenizer.vocabulary:
        return WorldTokenizer()
    raise UnsupportedCheckpoint(
        f"The model has a vocabulary of {vocabulary_rows} tokens, and no tokenizer for it is known: "
        f"this version runs models of the World vocabulary ({WorldTokenizer.vocabulary}) and of bytes ({ByteTokenizer.vocabulary})."
    )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"Character {error.start + 1} of the text is half of a surrogate pair, which stands for nothing; send valid Unicode."
        ) from error


def _world_path() -> Path:
    # Without importing the package: its native module is not used.
    spec = importlib.util.find_spec("pyrwkv_tokenizer")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / _WORLD if folders else None
    if path is None or not path.is_file():
        raise LoadFailed(f"The World vocabulary {_WORLD} is missing: install pyrwkv-tokenizer again.")
    return path


def _read_vocabulary(path: Path, rows: int) -> list[bytes]:
    """The bytes of each id, b"" where the file has none. Its lines are `id literal length`, the literal Python's."""
    tokens = [b""] * rows
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                id, _, rest = line.partition(" ")
                literal, _, length = rest.rpartition(" ")
                data = _literal(literal)
                if len(data) != int(length):
                    raise ValueError(f"token {id} is not {length} bytes long")
                tokens[int(id)] = data
        missing = set(range(256)).difference(data[0] for data in tokens if len(data) == 1)
        if missing:
            raise ValueError(f"{len(missing)} bytes are no tokens")
    except (ValueError, SyntaxError, IndexError) as error:
        raise LoadFailed(
            f"The World vocabulary {path} is damaged ({error}): install pyrwkv-tokenizer again."
        ) from error
    return tokens


def _literal(text: str) -> bytes:
    # Nine in ten have no escapes and mean what they say; the parser would take ten times as long for them.
    if "\\" not in text and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].encode()
    value: object = ast.literal_eval(text)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError(f"{text} is not text")


def _lengths(tokens: Iterable[bytes]) -> dict[bytes, tuple[int, ...]]:
    """For two bytes: how long tokens that start with them are, the longest first, down to the single byte."""
    found: dict[bytes, set[int]] = {}
    for data in tokens:
        if len(data) > 1:
            found.setdefault(data[:2], {1}).add(len(data))
    return {start: tuple(sorted(lengths, reverse=True)) for start, lengths in found.items()}
