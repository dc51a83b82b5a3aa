"""Tokens of prompts that begin alike: what was said before is not encoded again with every turn."""

import re
from array import array
from collections import OrderedDict

from cortexd.rwkv.prompt import LABELS
from cortexd.rwkv.tokenizer import Tokenizer

_ROOM = 2 * 2**20  # characters whose tokens are kept
_MESSAGE = re.compile(r"(?<=\n\n)(?=(?:" + "|".join(LABELS) + "):)")


class Segments:
    """Encodes as the tokenizer does, message by message: none of its tokens reaches from a blank line into the label after it."""

    def __init__(self, tokenizer: Tokenizer, room: int = _ROOM) -> None:
        self._tokenizer = tokenizer
        self._left = room
        self._kept: OrderedDict[str, array[int]] = OrderedDict()  # the longest unused first

    def encode(self, text: str, limit: int) -> list[int]:
        """The ids of `text`; of one with more than `limit` ids only the first `limit` + 1. Raises BadRequest."""
        tokens: list[int] = []
        for message in _MESSAGE.split(text):
            tokens += self._tokens_of(message, limit - len(tokens))
            if len(tokens) > limit:
                return tokens[: limit + 1]
        return tokens

    def _tokens_of(self, message: str, limit: int) -> "array[int] | list[int]":
        if (kept := self._kept.get(message)) is not None:
            self._kept.move_to_end(message)
            return kept
        tokens = self._tokenizer.encode(message, limit)
        if len(tokens) <= limit:
            self._keep(message, array("I", tokens))
        return tokens

    def _keep(self, message: str, tokens: "array[int]") -> None:
        self._kept[message] = tokens
        self._left -= len(message)
        while self._left < 0:
            oldest, _ = self._kept.popitem(last=False)
            self._left += len(oldest)
