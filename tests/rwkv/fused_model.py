"""A small model as a row of operators, whichever they are."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cortexd.rwkv.batch import Piece
from cortexd.rwkv.checkpoint import Checkpoint, no_report
from cortexd.rwkv.fused import FusedRwkv7, Station
from cortexd.rwkv.graphs import Record
from cortexd.rwkv.prepare import prepare
from cortexd.rwkv.state import StatePool
from cortexd.strategies import parse, plan
from cortexd_kernels.operators import Operators
from cortexd_kernels.plain import PlainOperators
from tests.checkpoint_files import tiny_state_dict, write_pth

TOLERANCE = 1e-4
VOCABULARY = 300
CPU = torch.device("cpu")


class Model:
    """With room for eight sequences."""

    def __init__(
        self,
        path: Path,
        dtype: torch.dtype = torch.float32,
        strategy: str = "",
        operators: Operators | None = None,
        recorder: Callable[[], Record] | None = None,
    ) -> None:
        """What integers leave in bf16 is in fp16 here: numpy, and so Triton's interpreter, has no bf16."""
        checkpoint = Checkpoint(str(path), no_report)
        self.shape = checkpoint.shape
        self.pool = StatePool(self.shape, 8)
        operators = operators or PlainOperators()
        weights, layers = dict(prepare(checkpoint, dtype)), self.shape.layers
        if not dtype.is_floating_point:
            weights = {name: it.half() if it.dtype is torch.bfloat16 else it for name, it in weights.items()}
        stations = [Station.whole(weights, operators, CPU, layers)]
        if strategy:
            stretches = plan(parse(strategy), layers)
            stations = [Station(weights, operators, CPU, it.first, it.end, it.resident) for it in stretches]
        self.fused = FusedRwkv7(stations, layers, recorder)

    def run(self, *pieces: Piece) -> Tensor:
        return self.fused.step(pieces, self.pool)[0]

    def feed(self, slot: int, ids: list[int], cut: int) -> Tensor:
        """Logits after the last token, fed in pieces of at most `cut`."""
        for start in range(0, len(ids), cut):
            logits = self.run(Piece(slot, ids[start : start + cut]))
        return logits[0]


def write_tiny(directory: Path, layers: int = 3, heads: int = 2) -> Path:
    """A random checkpoint, another each time."""
    path = directory / "tiny.pth"
    write_pth(path, tiny_state_dict(torch.seed() % 2**31, vocabulary=VOCABULARY, layers=layers, heads=heads))
    return path


def tokens(count: int) -> list[int]:
    return torch.randint(VOCABULARY, (count,)).tolist()


def compare_state(model: Model, slot: int, expected: list[Tensor]) -> None:
    """With what the official package holds for one sequence."""
    pool = model.pool
    for layer in range(model.shape.layers):
        for mine, theirs in zip(
            (pool.att_shift, pool.wkv, pool.ffn_shift), expected[3 * layer : 3 * layer + 3], strict=True
        ):
            assert (mine[layer, slot] - theirs).abs().max() <= TOLERANCE
