"""Steps that were recorded once and are replayed: to launch the kernels of a small step takes a GPU longer than to compute it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cortexd_kernels.operators import Rows

# Sequences of a recorded step; those that are missing are masked, and cost next to nothing of what the weights do.
BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_EAGER = 4  # steps of a size before it is recorded: what is asked once must not wait for a recording

Compute = Callable[[Tensor, Rows, Tensor], Tensor]  # tokens, rows and chosen rows to logits
# Of what computes: what computes it again, and where the result lies.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def record_on_cuda(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """`run` as a CUDA graph; it is run once before, so that nothing is compiled or allocated while it is recorded."""
    here = torch.cuda.current_stream()
    aside = torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        run()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


@dataclass(frozen=True)
class _Recorded:
    tokens: Tensor
    slots: Tensor
    replay: Callable[[], None]
    logits: Tensor


class Graphs:
    """Steps in which every sequence is fed one token, on `device`."""

    def __init__(self, compute: Compute, device: torch.device, record: Record = record_on_cuda) -> None:
        self._compute = compute
        self._device = device
        self._record = record
        self._seen: Counter[int] = Counter()
        self._recorded: dict[int, _Recorded] = {}

    def run(self, tokens: Sequence[int], slots: Sequence[int]) -> Tensor | None:
        """Logits `[B, V]`, to be used before the next step; None where this step is not to be replayed."""
        bucket = next((bucket for bucket in BUCKETS if bucket >= len(tokens)), None)
        if bucket is None:
            return None
        recorded = self._recorded.get(bucket)
        if recorded is None:
            self._seen[bucket] += 1
            if self._seen[bucket] <= _EAGER:
                return None
            recorded = self._recorded[bucket] = self._new(bucket)
        missing = bucket - len(tokens)
        recorded.tokens.copy_(torch.tensor([*tokens, *[0] * missing]))
        recorded.slots.copy_(torch.tensor([*slots, *[-1] * missing], dtype=torch.int32))
        recorded.replay()
        return recorded.logits[: len(tokens)]

    def _new(self, bucket: int) -> _Recorded:
        tokens = torch.zeros(bucket, dtype=torch.int64, device=self._device)
        rows = Rows.of([1] * bucket, [-1] * bucket, self._device)  # of nobody: to record a step must change no state
        chosen = torch.arange(bucket, dtype=torch.int32, device=self._device)
        replay, logits = self._record(lambda: self._compute(tokens, rows, chosen))
        return _Recorded(tokens, rows.slots, replay, logits)
