"""RWKV-7 in the native kernels."""

from collections.abc import Sequence

from torch import Tensor

from cortexd.rwkv.batch import Piece
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.v7 import Weights
from cortexd_kernels.native.model import NativeModel
from cortexd_kernels.native.threads import Threads


class NativeRwkv7:
    """The whole model, of the tensors that `prepare` gives. No bit depends on how a prompt is cut, on others or on threads."""

    exact_cuts = True

    def __init__(self, weights: Weights, threads: Threads) -> None:
        self._model = NativeModel(weights, threads)

    def step(self, pieces: Sequence[Piece], pool: StatePool) -> tuple[Tensor, list[int]]:
        """As `Rwkv7.step`."""
        wanted = [i for i, piece in enumerate(pieces) if piece.wants_logits]
        states = (pool.att_shift, pool.ffn_shift, pool.wkv)
        return self._model.step([(piece.slot, piece.tokens) for piece in pieces], states, wanted), wanted
