"""Layer norm, token shift and interpolations of a step, in one pass over its rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cortexd_kernels.operators import Mix, Norm, Rows

_FEW = 32  # rows, for which one program a row would leave most of a GPU idle
_COLUMNS = 512  # of a row that one program then makes


def shift_mix(x: Tensor, rows: Rows, state: Tensor, weights: Mix, dtype: torch.dtype) -> Tensor:
    """`Operators.shift_mix`: x fp32 `[T, C]`, state fp32 `[slots, C]` → `[M, T, C]`.

    Moves C·(4 T + 8 S + 4 M) bytes and writes M·T·C·A; a row after the first of its piece reads the one before it again.
    """
    count, width = x.shape
    streams = len(weights.mix)
    mixed = torch.empty(streams, count, width, dtype=dtype, device=x.device)
    block = triton.next_power_of_2(width)
    columns = min(block, _COLUMNS) if count <= _FEW else block
    grid = (count, triton.cdiv(width, columns))
    _shift_mix[grid](
        x,
        rows.starts,
        rows.slots,
        rows.piece_of,
        state,
        *weights.norm,
        weights.mix,
        mixed,
        count,
        width,
        STREAMS=streams,
        BLOCK=block,
        COLUMNS=columns,
        ALONE=rows.max_length == 1,
        num_warps=_warps(block),
    )
    return mixed


def normalised_rows(x: Tensor, chosen: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """LN(x[chosen]): x fp32 `[T, C]`, chosen int32 `[B]` → `[B, C]`."""
    width = x.shape[1]
    h = torch.empty(len(chosen), width, dtype=dtype, device=x.device)
    block = triton.next_power_of_2(width)
    _normalised_rows[(len(chosen),)](x, chosen, *norm, h, width, BLOCK=block, num_warps=_warps(block))
    return h


def _warps(block: int) -> int:
    return min(max(block // 512, 1), 8)


@triton.jit
def _normalised(x, weight, bias, width, columns, BLOCK: tl.constexpr):
    """The columns asked for of the layer norm of one row, which is read whole for its mean and variance."""
    every = tl.arange(0, BLOCK)
    row = tl.load(x + every, mask=every < width, other=0.0)
    mean = tl.sum(row, 0) / width
    centred = tl.where(every < width, row - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + 1e-5)
    inside = columns < width
    own = tl.load(x + columns, mask=inside, other=0.0)
    factor = tl.load(weight + columns, mask=inside, other=0.0)
    return (own - mean) * scale * factor + tl.load(bias + columns, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["count"])
def _shift_mix(
    x,
    starts,
    slots,
    piece_of,
    state,
    weight,
    bias,
    mix,
    mixed,
    count,
    width,
    STREAMS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALONE: tl.constexpr,  # every piece is one row
):
    row = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    at = x + row.to(tl.int64) * width
    h = _normalised(at, weight, bias, width, columns, BLOCK)
    piece = row if ALONE else tl.load(piece_of + row)
    first = row if ALONE else tl.load(starts + piece)
    if row == first:
        slot = tl.load(slots + piece)
        shift = state + slot.to(tl.int64) * width + columns
        previous = tl.load(shift, mask=inside & (slot >= 0), other=0.0)
        # The program of a piece's first row, and no other, reads its state: so it is the one that may write it.
        last = h
        if not ALONE:
            end = tl.load(starts + piece + 1)
            if end > row + 1:
                last = _normalised(at + (end - 1 - row).to(tl.int64) * width, weight, bias, width, columns, BLOCK)
        tl.debug_barrier()
        tl.store(shift, last, mask=inside & (slot >= 0))
    else:
        previous = _normalised(at - width, weight, bias, width, columns, BLOCK)
    difference = previous - h
    for stream in tl.static_range(STREAMS):
        factor = tl.load(mix + stream * width + columns, mask=inside, other=0.0)
        out = mixed + (stream * count + row).to(tl.int64) * width + columns
        tl.store(out, (h + difference * factor).to(mixed.dtype.element_ty), mask=inside)


@triton.jit
def _normalised_rows(x, chosen, weight, bias, h, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    at = x + tl.load(chosen + row).to(tl.int64) * width
    result = _normalised(at, weight, bias, width, columns, BLOCK)
    tl.store(h + row.to(tl.int64) * width + columns, result.to(h.dtype.element_ty), mask=columns < width)
