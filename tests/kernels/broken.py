"""Operators as a device that nobody has seen may have them."""

import os
import signal
from pathlib import Path

import torch
from torch import Tensor

from cortexd_kernels.operators import Columns, Packed, Readout, Rows, Streams
from cortexd_kernels.plain import PlainOperators

LOG = "CORTEXD_TEST_LOG"  # names a file, to which each that is made adds a line


class Right(PlainOperators):
    def __init__(self) -> None:
        if path := os.environ.get(LOG):
            with Path(path).open("a") as log:
                log.write("made\n")
            print("ptxas has something to say", 1, sep="\n", flush=True)


class ForgetsToWrite(Right):
    def channel_mix(self, x: Tensor, mixed: Tensor, key: Packed, value: Columns) -> None:
        pass


class WritesMaskedStates(Right):
    def wkv(self, streams: Streams, rows: Rows, state: Tensor, readout: Readout) -> Tensor:
        result = super().wkv(streams, rows, state, readout)
        state[-1] += 1
        return result


class LosesLongPieces(Right):
    """Of 64 tokens and more, which are computed by chunks."""

    def wkv(self, streams: Streams, rows: Rows, state: Tensor, readout: Readout) -> Tensor:
        result = super().wkv(streams, rows, state, readout)
        return result * (rows.max_length < 64)


class OverflowsInHalf(Right):
    """States that are kept in fp16."""

    def wkv(self, streams: Streams, rows: Rows, state: Tensor, readout: Readout) -> Tensor:
        result = super().wkv(streams, rows, state, readout)
        if state.dtype is torch.float16:
            state *= 1e6
        return result


class LeavesHoles(Right):
    def products(self, streams: Tensor, packed: Packed) -> tuple[Tensor, ...]:
        results = super().products(streams, packed)
        results[-1][-1, -1] = torch.nan
        return results


class IgnoresScales(Right):
    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        if packed.scales is not None:
            packed = Packed(packed.weight, packed.parts, torch.full_like(packed.scales, 0.01))
        super().product_add(x, y, packed)


class IgnoresGroups(Right):
    def channel_mix(self, x: Tensor, mixed: Tensor, key: Packed, value: Columns) -> None:
        if value.groups is not None:
            value = value._replace(groups=torch.full_like(value.groups, 100))
        super().channel_mix(x, mixed, key, value)


class DoesNotCompile(Right):
    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        raise RuntimeError("ptxas has no sm_120\nand much else to say")


class Crashes(Right):
    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Right):
    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        while True:
            signal.pause()


class DrawsTheFirst(Right):
    def sample(self, logits: Tensor, draws: Tensor) -> Tensor:
        return torch.zeros(len(logits), dtype=torch.int32)
