"""A prompt on its way into a state, piece by piece, and where on that way the state is kept."""

import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Self

import msgspec

from cortexd.rwkv.batch import PIECE
from cortexd.rwkv.prompt import LABELS
from cortexd.rwkv.tokenizer import Tokenizer

_FIRST_POWER = 512  # tokens: the first of the powers of two at which states are kept
_WORTH_A_FILE = 32  # tokens that a state on the disk saves at least
_MESSAGE_END = re.compile(rb"\n\n(?=(?:" + "|".join(LABELS).encode() + rb"):)")

Pieces = Sequence[bytes]  # the tokens of each as uint32


class Reading(msgspec.Struct):
    """`start` names what it begins from, `kept` after how many pieces the state is kept, and whether on the disk too.

    Where a prompt is cut decides the last bits of its state, so it depends on nothing but what was read before and the message
    that ends there: a longer prompt with the same beginning is cut at the same places.
    """

    start: str
    pieces: list[bytes]
    kept: dict[int, bool]
    done: int = 0  # pieces
    begun: int = 0  # tokens that were read of the next one
    cached: int = 0  # tokens that were found in a state

    @classmethod
    def of(cls, tokens: Sequence[int], tokenizer: Tokenizer, start: str = "", *, closed: bool = False) -> Self:
        """Of a prompt with at least one token; a `closed` one ends where a message does."""
        data = [tokenizer.token_bytes(token) for token in tokens]
        ends = message_ends(data)
        if closed:
            ends.append(len(tokens))
        powers = [1 << n for n in range(_FIRST_POWER.bit_length() - 1, len(tokens).bit_length())]
        stops = sorted({*ends, *powers, len(tokens)})
        at = [i for begin, end in zip([0, *stops], stops, strict=False) for i in range(begin, end, PIECE)]
        pieces = [array("I", tokens[i:j]).tobytes() for i, j in zip(at, [*at[1:], len(tokens)], strict=True)]
        system = ends[:1] if b"".join(data[:PIECE]).startswith(b"System:") else []
        last = len(tokens) if closed else at[-1]
        before = [end for end in ends if end < last][-1:]  # where the last message begins, for another in its place
        lasting = {*powers, *system, *before, last}
        kept = {
            count: end >= _WORTH_A_FILE and end in lasting
            for count, end in enumerate([*at, len(tokens)])
            if end and (end in lasting or end in ends) and (closed or end < len(tokens))
        }
        return cls(start, pieces, kept)

    @property
    def left(self) -> bool:
        return self.done < len(self.pieces)

    @property
    def fresh(self) -> bool:
        """Whether nothing of it has been read."""
        return not (self.done or self.begun)

    @property
    def next_length(self) -> int:
        """Tokens of the next piece that are left."""
        return len(self.pieces[self.done]) // 4 - self.begun

    @property
    def length(self) -> int:
        """Tokens that are left of all of it."""
        return sum(map(len, self.pieces[self.done :])) // 4 - self.begun

    def next(self, most: int = PIECE) -> Sequence[int]:
        """The tokens of the next piece, or so many of them, which are read from now on."""
        tokens = tokens_of(self.pieces[self.done])
        begin, self.begun = self.begun, min(self.begun + most, len(tokens))
        taken = tokens[begin : self.begun]
        if self.begun == len(tokens):
            self.done, self.begun = self.done + 1, 0
        return taken

    def stretch(self, most: int) -> tuple[Sequence[int], list[tuple[int, int]]]:
        """The next tokens, at most so many, across the ends of pieces; and for each such end on the way how many of them it comes
        after, and how many pieces are done there.
        """
        taken = array("I")
        ends: list[tuple[int, int]] = []
        while self.left and len(taken) < most:
            taken.extend(self.next(most - len(taken)))
            if not self.begun:
                ends.append((len(taken), self.done))
        return taken, [end for end in ends if end[0] < len(taken)]

    def skip(self, count: int) -> None:
        """The state after the first `count` pieces was found."""
        self.done, self.begun = count, 0
        self.cached = sum(map(len, self.pieces[:count])) // 4


def message_ends(data: Sequence[bytes]) -> list[int]:
    """After how many tokens a message ends, of tokens that stand for `data`.

    No token of a vocabulary reaches from a blank line into the label after it, so that these places stay as they are whatever
    follows.
    """
    offsets = list(accumulate(map(len, data)))
    found: list[int] = []
    for match in _MESSAGE_END.finditer(b"".join(data)):
        token = bisect_left(offsets, match.end())
        if offsets[token] == match.end():
            found.append(token + 1)
    return found


def tokens_of(piece: bytes) -> Sequence[int]:
    return memoryview(piece).cast("I")


def start_of(tenant: str, initial_state: str) -> str:
    """What a sequence begins from: nothing that one tenant has read is found by another."""
    return f"{tenant}\n{initial_state}"
