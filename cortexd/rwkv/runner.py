"""The runner: a model, the states of its sequences, and one step of both."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cortexd.errors import LoadFailed
from cortexd.rwkv.batch import Batch, Piece
from cortexd.rwkv.checkpoint import Checkpoint, ReportBytes
from cortexd.rwkv.layers import least_rows
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.strategy import parse_strategy
from cortexd.rwkv.v7 import Rwkv7


class Runner:
    """Opens the checkpoint at `path` with room for `slots` sequences; raises LoadFailed with one sentence."""

    def __init__(self, path: str, strategy: str, slots: int, report: ReportBytes) -> None:
        checkpoint = Checkpoint(path, report)
        self.shape = checkpoint.shape
        self.strategy = parse_strategy(strategy, self.shape.dtype)
        self.pool = StatePool(self.shape, slots)
        with torch.inference_mode():
            self.model = Rwkv7(checkpoint.take, checkpoint.big(self.strategy.dtype), self.shape)
            least_rows(self.strategy.dtype, torch.get_num_threads())
            self._probe(checkpoint.name)

    def run(self, pieces: Sequence[Piece]) -> tuple[Tensor, list[int]]:
        """One step: logits `[rows, V]` in fp32, and for each row the index of the piece it follows."""
        with torch.inference_mode():
            batch = Batch(pieces)
            return self.model.forward(batch, self.pool), batch.wanted_pieces

    def _probe(self, name: str) -> None:
        slot = self.pool.take()
        logits, _ = self.run([Piece(slot, [0])])
        self.pool.give_back(slot)
        if not bool(torch.isfinite(logits).all()):
            raise LoadFailed(f"{name} computes no finite numbers: its weights are damaged; download it again.")
