"""Drawing the next token of every sequence of a batch in one native call."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cortexd_kernels.native import structures as c
from cortexd_kernels.native.threads import Threads


@dataclass(frozen=True)
class Draw:
    """How to draw from one row: `added` float32 is added to the logits of `ids` int32, one after the other.

    In `rwkv_order` top_p (at temperature 1, equals kept) comes before top_k and temperature; else top_k, top_p at the temperature,
    min_p. `uniform` in (0, 1) alone decides among what is left.
    """

    uniform: float
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    rwkv_order: bool = False
    ids: Tensor | None = None
    added: Tensor | None = None


def sample(threads: Threads, logits: Tensor, draws: Sequence[Draw], banned: Tensor | None = None) -> list[int]:
    """One token for each row of `logits` `[B, V]`, never one of the `banned` int32 ids; -1 where no logit of a row is finite."""
    rows, vocabulary = logits.shape
    assert len(draws) == rows
    tokens = c.ints([0] * rows)
    threads.call(
        "cortexd_sample",
        *(c.floats(logits), rows, vocabulary),
        (c.Draw * rows)(*(_described(draw, vocabulary) for draw in draws)),
        *_ids(banned, vocabulary),
        tokens,
    )
    return list(tokens)


def _described(draw: Draw, vocabulary: int) -> c.Draw:
    ids, count = _ids(draw.ids, vocabulary)
    assert count == (0 if draw.added is None else len(draw.added))
    numbers = (draw.uniform, draw.temperature, draw.top_p, draw.min_p, count, draw.top_k, draw.rwkv_order)
    return c.Draw(ids, c.floats(draw.added), *numbers)


def _ids(ids: Tensor | None, vocabulary: int) -> tuple[c.c_void_p, int]:
    if ids is None or not len(ids):
        return c.c_void_p(), 0
    assert ids.dtype is torch.int32
    assert ids.is_contiguous()
    assert 0 <= int(ids.amin()) <= int(ids.amax()) < vocabulary
    return c.c_void_p(ids.data_ptr()), len(ids)
