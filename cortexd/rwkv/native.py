"""RWKV-7 in the native kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cortexd.rwkv.batch import Piece
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.v7 import Weights
from cortexd_kernels.native.layout import FORMATS, pack, unpack
from cortexd_kernels.native.library import open_native
from cortexd_kernels.native.model import NativeModel
from cortexd_kernels.native.stages import product
from cortexd_kernels.native.threads import Threads

_WIDTH, _ROWS = 192, 5  # of the product that is tried
_TOLERANCE = 1e-3  # relative


class NativeRwkv7:
    """The whole model, of the tensors that `prepare` gives. No bit depends on how a prompt is cut, on others or on threads."""

    exact_cuts = True

    def __init__(self, weights: Weights, threads: Threads) -> None:
        self._model = NativeModel(weights, threads)

    def step(self, pieces: Sequence[Piece], pool: StatePool) -> tuple[Tensor, list[int]]:
        """As `Rwkv7.step`."""
        wanted = [i for i, piece in enumerate(pieces) if piece.wants_logits]
        states = (pool.att_shift, pool.ffn_shift, pool.wkv)
        marks = [(i, mark.after, mark.state.tensors) for i, piece in enumerate(pieces) for mark in piece.marks]
        return self._model.step([(piece.slot, piece.tokens) for piece in pieces], states, wanted, marks), wanted


def native_problem() -> str:
    """Why this machine has no native kernels, or has some that compute wrongly; "" where all is well."""
    native = open_native()
    if native.library is None:
        return native.description
    x: Tensor = torch.randn(_ROWS, _WIDTH)
    weight: Tensor = torch.randn(_WIDTH, _WIDTH)
    for name, dtype in FORMATS.items():
        numbers, scales = pack(weight, dtype)
        expected = x @ unpack(numbers, scales).t()
        found = product(Threads(native), numbers, x, scales)
        if not float((found - expected).abs().max()) < _TOLERANCE * float(expected.abs().max()):
            return f"{native.description}, compute wrongly with {name} on this processor"
    return ""
