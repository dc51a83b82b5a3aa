"""The runner: a model, the states of its sequences, and one step of both."""

import contextlib
import ctypes
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape
from cortexd.errors import LoadFailed
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.checkpoint import ReportBytes
from cortexd.rwkv.fused import FusedRwkv7
from cortexd.rwkv.native import NativeRwkv7
from cortexd.rwkv.placement import Placed, gpu_problem, place
from cortexd.rwkv.rows import least_rows
from cortexd.rwkv.state import Home, StatePool
from cortexd.rwkv.v7 import Rwkv7
from cortexd.rwkv.weights import Weights, open_weights, weights_identity
from cortexd.rwkv.weights_cache import WeightsCache
from cortexd.strategies import is_placed
from cortexd_kernels.native.library import Native, open_native
from cortexd_kernels.native.model import HEAD_SIZE
from cortexd_kernels.native.threads import Threads


class Runner:
    """Opens the checkpoint at `path` with room for `slots` sequences; raises LoadFailed with one sentence.

    Computes in `native` kernels, those of this machine if it is None; where they are absent, in PyTorch. `threads` is what a call
    computes with, None where that is PyTorch's affair; `sample` draws on the device where there is one that can.
    """

    def __init__(
        self,
        path: str,
        strategy: str,
        slots: int,
        report: ReportBytes,
        cache: WeightsCache | None = None,
        native: Native | None = None,
    ) -> None:
        native = native or open_native()
        self.threads = Threads(native, torch.get_num_threads()) if native.library is not None else None
        self.arithmetic = native.build or f"torch {torch.__version__}"
        self._path = Path(path)
        self._strategy = strategy
        self._cache = cache
        self.identity = weights_identity(self._path)
        self.notices: list[str] = []  # what is not as it was asked for, in one sentence each
        if problem := gpu_problem(strategy):
            self.notices.append(f"{self._path.name} is computed on the CPU: {problem}")
            self._strategy = "auto"
        weights = self._open(report)
        self.shape, self.weight_bytes, self.strategy = weights.shape, weights.bytes, str(weights.strategy)
        if isinstance(weights, Placed):
            self.arithmetic = f"torch {torch.__version__} on {', '.join(sorted(_processors(weights.homes)))}"
        self.sample = weights.sample if isinstance(weights, Placed) else None
        self.model: NativeRwkv7 | Rwkv7 | FusedRwkv7 | None = None
        with self._refused_without_memory():
            self.model = self._model_of(weights)
            self.pool = _pool(weights, slots)  # what the weights leave of the memory
            self._begin(weights)

    def run(self, pieces: Sequence[Piece]) -> tuple[Tensor, list[int]]:
        """One step: logits `[rows, V]` in fp32 until the next one, and for each row the index of the piece it follows.

        They are on the device that computed them.
        """
        assert self.model is not None, "a parked model computes nothing"
        return self.model.step(pieces, self.pool)

    @property
    def exact_cuts(self) -> bool:
        """Whether a prompt has the same state to the last bit however it is cut."""
        return self.model is not None and self.model.exact_cuts

    def compute_with(self, threads: int) -> None:
        """From the next step on."""
        torch.set_num_threads(threads)
        if self.threads is not None:
            self.threads.count = threads

    def park(self) -> None:
        """Hold neither weights nor states: what was mapped is page cache from now on, and the kernel's to take."""
        self.model = None
        self.pool.release()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        _give_back_freed()

    def resume(self, report: ReportBytes) -> None:
        """The end of `park`; raises LoadFailed."""
        if weights_identity(self._path) != self.identity:
            raise LoadFailed(f"{self._path.name} has changed on the disk since it was loaded; ask again.")
        weights = self._open(report)
        with self._refused_without_memory():
            self.model = self._model_of(weights)
            self.pool.regain()
            self._begin(weights)

    def _open(self, report: ReportBytes) -> Weights | Placed:
        if is_placed(self._strategy):
            weights = place(self._path, self._strategy, self._cache, report)
        else:
            weights = open_weights(self._path, self._strategy, self._cache, report, native=self.threads is not None)
        check_heads(weights.shape, self._path.name)
        return weights

    @contextlib.contextmanager
    def _refused_without_memory(self) -> Generator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise LoadFailed(_without_memory(f"{self._path.name}, {self.strategy}", error)) from error

    def _model_of(self, weights: Weights | Placed) -> NativeRwkv7 | Rwkv7 | FusedRwkv7:
        if isinstance(weights, Placed):
            return FusedRwkv7(weights.stations, self.shape.layers)
        if self.threads is not None:
            return NativeRwkv7(weights.tensors, self.threads)
        least_rows(weights.strategy.dtype, torch.get_num_threads())
        return Rwkv7(weights.tensors, self.shape)

    def _begin(self, weights: Weights | Placed) -> None:
        if isinstance(weights, Placed):
            self.notices += [notice for notice in weights.notices if notice not in self.notices]
        if not weights.trusted:
            _give_back_freed()
            self._probe()
        if self._cache is not None:
            for fresh in weights.fresh if isinstance(weights, Placed) else [weights.fresh]:
                if fresh is not None:
                    self._cache.publish(fresh)

    def _probe(self) -> None:
        slot = self.pool.take()
        logits, _ = self.run([Piece(slot, [0])])
        self.pool.give_back(slot)
        if not bool(torch.isfinite(logits).all()):
            raise LoadFailed(
                f"{self._path.name} computes no finite numbers: its weights are damaged; download it again."
            )


def _processors(homes: Iterable[Home]) -> set[str]:
    return {torch.cuda.get_device_name(home.device) if home.device.type == "cuda" else "cpu" for home in homes}


def _pool(weights: Weights | Placed, slots: int) -> StatePool:
    """With room for as many sequences as the devices have; raises LoadFailed where they have none for a single one."""
    placement = weights.homes if isinstance(weights, Placed) else None
    while True:
        try:
            return StatePool(weights.shape, slots, placement)
        except torch.OutOfMemoryError as error:
            if slots == 1:
                raise LoadFailed(_without_memory("the state of a single answer", error)) from error
            slots //= 2


def _without_memory(what: str, error: torch.OutOfMemoryError) -> str:
    said = str(error).partition(". ")[0]
    return (
        f"The GPU has no memory for {what} ({said}): end what else computes there, or use a strategy that needs less of it, such "
        "as 'cuda int8' or 'cuda fp16 *10+'."
    )


def check_heads(shape: ModelShape, name: str) -> None:
    """Raises LoadFailed where no runner computes with such a model."""
    if shape.head_size != HEAD_SIZE:
        raise LoadFailed(f"{name} has heads of {shape.head_size} channels; RWKV-7 models have {HEAD_SIZE}.")


def _give_back_freed() -> None:
    """What was converted and freed lies in the allocator's hands, of no use to other processes."""
    with contextlib.suppress(AttributeError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)
