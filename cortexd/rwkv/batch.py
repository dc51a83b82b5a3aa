"""What one step computes: pieces of several sequences, laid end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cortexd.rwkv.state import SavedState

PIECE = 128  # tokens of a prompt in one piece; where a prompt is cut depends on nothing but the prompt


@dataclass(frozen=True)
class Mark:
    """The state of a sequence after so many tokens of its piece, to which the step sets it."""

    after: int
    state: SavedState


@dataclass(frozen=True)
class Piece:
    """Some next tokens of the sequence in `slot`; `wants_logits` after the last of them.

    `marks` are for arithmetic in which a prompt may be cut anywhere.
    """

    slot: int
    tokens: Sequence[int]
    wants_logits: bool = True
    marks: Sequence[Mark] = ()


class Batch:
    """Pieces as flat tensors, single tokens first.

    tokens `[T]`; for each of the S pieces its slot, and the rows of its first and last token; `wanted` the rows that need logits,
    `wanted_pieces` the pieces (as numbered by the caller) they belong to; `ones` how many pieces are a single token.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        assert pieces, "a step computes something"
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i].tokens) != 1)
        ordered = [pieces[i] for i in order]
        self.lengths = [len(piece.tokens) for piece in ordered]
        self.ones = self.lengths.count(1)
        self.slots = torch.tensor([piece.slot for piece in ordered])
        self.tokens = torch.tensor([token for piece in ordered for token in piece.tokens])
        ends = torch.tensor(self.lengths).cumsum(0)
        self.last: Tensor = ends - 1
        self.first: Tensor = ends - torch.tensor(self.lengths)
        wanted = [i for i, piece in enumerate(ordered) if piece.wants_logits]
        self.wanted: Tensor = self.last[wanted]
        self.wanted_pieces = [order[i] for i in wanted]
