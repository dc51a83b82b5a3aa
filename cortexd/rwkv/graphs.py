"""Steps that were recorded once and are replayed: to launch the kernels of a small step takes a GPU longer than to compute it."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cortexd_kernels.operators import Rows

# Sequences of a recorded step; those that are missing are masked, and cost next to nothing of what the weights do.
BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_EAGER = 4  # steps of a size before it is recorded: what is asked once must not wait for a recording

Compute = Callable[[Tensor, Rows, Tensor], Tensor]  # tokens, rows and chosen rows to logits
# Of what computes: what computes it again, and where the result lies.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


class CudaRecorder:
    """Makes CUDA graphs, on the device that is the current one. They share their memory: no two are ever replayed at once."""

    def __init__(self) -> None:
        self._first: torch.cuda.CUDAGraph | None = None  # whose memory it is

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """It is run once before, so that nothing is compiled, loaded or made once for all while it is recorded."""
        here = torch.cuda.current_stream()
        aside = torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Where a recording fails, PyTorch leaves the stream of the recording as the current one.
        memory = None if self._first is None else self._first.pool()
        with torch.cuda.stream(here), torch.cuda.graph(graph, pool=memory):
            result = run()
        self._first = self._first or graph
        return graph.replay, result


@dataclass(frozen=True)
class _Recorded:
    fed: Tensor  # int32 `[2, …]`: tokens and slots
    replay: Callable[[], None]
    logits: Tensor


class Graphs:
    """Steps in which every sequence is fed one token, on `device`.

    They hold none of what computes them, but go on reading the weights, and writing the states, that they were recorded with.
    """

    def __init__(self, device: torch.device, record: Record) -> None:
        self._device = device
        self._record = record
        self._seen: Counter[int] = Counter()
        self._recorded: dict[int, _Recorded | None] = {}  # None: that cannot be recorded

    def run(self, compute: Compute, tokens: Sequence[int], slots: Sequence[int]) -> Tensor | None:
        """Logits `[B, V]`, to be used before the next step; None where this step is not to be replayed."""
        bucket = next((bucket for bucket in BUCKETS if bucket >= len(tokens)), None)
        if bucket is None:
            return None
        if bucket not in self._recorded:
            self._seen[bucket] += 1
            if self._seen[bucket] <= _EAGER:
                return None
            self._recorded[bucket] = self._new(compute, bucket)
        recorded = self._recorded[bucket]
        if recorded is None:
            return None
        width = recorded.fed.shape[1]
        fed = [*tokens, *[0] * (width - len(tokens))], [*slots, *[-1] * (width - len(slots))]
        # What is not pinned is copied aside before this returns: nobody waits, and nothing is overwritten on its way.
        recorded.fed.copy_(torch.tensor(fed, dtype=torch.int32), non_blocking=True)
        recorded.replay()
        return recorded.logits[: len(tokens)]

    def _new(self, compute: Compute, bucket: int) -> _Recorded | None:
        # Of nobody: to record a step must change no state. Slots begin at a multiple of 16 bytes, as kernels like it.
        fed = torch.zeros(2, max(bucket, 4), dtype=torch.int32, device=self._device)
        fed[1] = -1
        rows = replace(Rows.of([1] * bucket, [-1] * bucket, self._device), slots=fed[1, :bucket])
        chosen = torch.arange(bucket, dtype=torch.int32, device=self._device)
        try:
            replay, logits = self._record(lambda: compute(fed[0, :bucket], rows, chosen))
        except RuntimeError as error:  # as where there is no memory left for it
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"steps of {bucket} streams are not recorded, and so are slower: {reason}", stacklevel=2)
            return None
        return _Recorded(fed, replay, logits)
