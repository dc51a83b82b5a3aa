"""Every kind of step that a model will be asked for, computed once ahead: with two of its layers and its head, at their full size.

All layers but the first have the same shapes, so no kernel is left that a whole model would be the first to start.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from cortexd.rwkv.batch import PIECE, Piece
from cortexd.rwkv.checkpoint import Checkpoint, no_report
from cortexd.rwkv.fused import FusedRwkv7, Station
from cortexd.rwkv.graphs import BUCKETS
from cortexd.rwkv.prepare import prepare
from cortexd.rwkv.state import Home, StatePool
from cortexd_kernels.draws import Draw, packed
from cortexd_kernels.operators import Operators

_LAYERS = 2
_SHORT = (2, 16, 32, 64)  # tokens of a prompt, or what is left of one
_MOST = 1024  # tokens of prompts: more are computed by the same kernels


class Rehearsal:
    """Of the checkpoint at `path` with weights in `dtype`: with up to so many `sequences`, and `prefill` tokens of prompts."""

    def __init__(self, path: Path, dtype: torch.dtype, home: Home, sequences: int, prefill: int) -> None:
        checkpoint = Checkpoint(str(path), no_report)
        self.shape = msgspec.structs.replace(checkpoint.shape, layers=min(_LAYERS, checkpoint.shape.layers))
        checkpoint.shape = self.shape
        self.device = home.device
        self._home = home
        with torch.inference_mode():
            self._weights = dict(prepare(checkpoint, dtype))
        self._steps = list(steps(sequences, prefill))

    @torch.inference_mode()
    def run(self, operators: Operators) -> Tensor:
        """The logits of all steps `[n, V]`."""
        layers = self.shape.layers
        model = FusedRwkv7([Station.whole(self._weights, operators, self.device, layers)], layers)
        pool = StatePool(self.shape, max(map(len, self._steps)), [self._home] * layers)
        tokens = itertools.cycle(range(1, self.shape.vocabulary))
        results: list[Tensor] = []
        for lengths in self._steps:
            slots = [pool.take() for _ in lengths]
            pieces = [Piece(slot, list(itertools.islice(tokens, n))) for slot, n in zip(slots, lengths, strict=True)]
            logits, _ = model.step(pieces, pool)
            results.append(logits.clone())
            for slot in slots:
                pool.give_back(slot)
        _draw(operators, results[0])
        return torch.cat(results)


def steps(sequences: int, prefill: int) -> Iterator[list[int]]:
    """Lengths of pieces: single tokens of ever more sequences, short prompts, long ones, and both together."""
    for count in BUCKETS:
        if count <= max(sequences, 1):
            yield [1] * count
    for length in (*_SHORT, PIECE):
        yield [length]
    yield [PIECE, 1, 1]
    count = 2
    while count * PIECE <= min(prefill, _MOST):
        yield [PIECE] * count
        count *= 2


def _draw(operators: Operators, logits: Tensor) -> None:
    """Once with each of the tables that may be there."""
    if operators.sample is None:
        return
    flags = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    draws = packed([Draw()], logits.device)
    for counts, bias in itertools.product((None, torch.zeros_like(logits[:1])), repeat=2):
        operators.sample(logits[:1], draws, counts, bias, flags, flags)
