"""The recurrence of decodes and of short pieces, one token after the other, and what is made of its result."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cortexd_kernels.fused import chunked
from cortexd_kernels.fused.chunked import as_stored
from cortexd_kernels.operators import HEAD, Readout, Rows, Streams

_BUSY = 256  # programs that keep a GPU busy: with fewer, the rows of a state are split among several
_LONG = 8  # tokens from which on it pays to start a second kernel for that
CHUNKED = 64  # tokens from which on a piece is computed by chunks


def wkv(streams: Streams, rows: Rows, state: Tensor, readout: Readout, splits: int | None = None) -> Tensor:
    """`Operators.wkv`: state `[slots, H, N, N]` in fp32 or fp16 → `[T, C]` in A.

    Moves each state in and out once and, for each token, seven streams in and one out. Rows of a state are independent: `splits`
    (1, 2 or 4; by default what suits the batch) programs share a head, and then a second kernel does what needs whole heads.
    Pieces of 64 tokens and more are left to `chunked`.
    """
    count, width = streams.k.shape
    heads = width // HEAD
    if splits is None:
        splits = 4 if rows.max_length >= _LONG and rows.pieces * heads * 4 <= _BUSY else 1
    chunks = rows.max_length >= CHUNKED
    whole = splits == 1 and not chunks
    y = torch.empty(count, width, dtype=streams.k.dtype if whole else torch.float32, device=state.device)
    _recurrence[(heads, rows.pieces, splits)](
        tuple(streams),
        tuple(stream.stride(0) for stream in streams),
        rows.starts,
        rows.slots,
        state,
        (readout.r_k, *readout.norm),
        y,
        heads,
        CHUNKED - 1,
        N=HEAD,
        BLOCK_V=HEAD // splits,
        ALONE=rows.max_length == 1,
        WHOLE=whole,
        num_warps=4 // splits,
    )
    if chunks:
        chunked.recurrence(streams, rows, state, y, least=CHUNKED)
    return y if whole else read_out(y, streams, rows, readout)


def read_out(y: Tensor, streams: Streams, rows: Rows, readout: Readout) -> Tensor:
    """From the result of a recurrence, fp32 `[T, C]`, to that of `wkv`; zeros where the piece is masked."""
    count, width = y.shape
    result = torch.empty(count, width, dtype=streams.k.dtype, device=y.device)
    strides = tuple(stream.stride(0) for stream in streams)
    _read_out[(count, width // HEAD)](
        y,
        tuple(streams),
        strides,
        rows.piece_of,
        rows.slots,
        readout.r_k,
        *readout.norm,
        result,
        width,
        N=HEAD,
        num_warps=1,
    )
    return result


@triton.jit
def _channel(streams, strides, WHICH: tl.constexpr, t, c):
    """Numbers c of row t of one of the streams."""
    return tl.load(streams[WHICH] + tl.cast(t, tl.int64) * strides[WHICH] + c).to(tl.float32)


@triton.jit
def _head_result(y, bonus, value, gate, weight, bias, N: tl.constexpr):
    """(GN(y) + bonus·v) ⊙ g of one head."""
    centred = y - tl.sum(y, 0) / N
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / N + 64e-5)
    return (centred * scale * weight + bias + bonus * value) * gate


@triton.jit
def _token(S, streams, strides, t, key, value, readout, out, heads, N: tl.constexpr, WHOLE: tl.constexpr):
    """One step of S, whose rows are the channels `value` and whose columns the channels `key` of a head; gives the new one."""
    r = _channel(streams, strides, 0, t, key)
    w = _channel(streams, strides, 1, t, key)
    k = _channel(streams, strides, 2, t, key)
    v = _channel(streams, strides, 3, t, value)
    kappa = _channel(streams, strides, 4, t, key)
    a = _channel(streams, strides, 5, t, key)
    removed = tl.sum(S * kappa[None, :], 1)
    S = S * w[None, :] - removed[:, None] * (kappa * a)[None, :] + v[:, None] * k[None, :]
    y = tl.sum(S * r[None, :], 1)
    if WHOLE:
        r_k, weight, bias = readout
        bonus = tl.sum(r * k * tl.load(r_k + key), 0)
        gate = _channel(streams, strides, 6, t, value)
        y = _head_result(y, bonus, v, gate, tl.load(weight + value), tl.load(bias + value), N)
    tl.store(out + tl.cast(t, tl.int64) * heads * N + value, y.to(out.dtype.element_ty))
    return S


@triton.jit
def _recurrence(
    streams,
    strides,
    starts,
    slots,
    state,
    readout,
    out,
    heads,
    most,  # tokens: longer pieces are left alone
    N: tl.constexpr,
    BLOCK_V: tl.constexpr,  # rows of the state
    ALONE: tl.constexpr,  # every piece is one row
    WHOLE: tl.constexpr,  # the rows are all there are: the result of the layer can be made here
):
    head = tl.program_id(0)
    piece = tl.program_id(1)
    key = head * N + tl.arange(0, N)
    value = head * N + tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    first = piece if ALONE else tl.load(starts + piece)
    end = piece + 1 if ALONE else tl.load(starts + piece + 1)
    slot = tl.load(slots + piece)
    if slot < 0:
        for t in range(first, end):
            zeros = tl.zeros((BLOCK_V,), out.dtype.element_ty)
            tl.store(out + tl.cast(t, tl.int64) * heads * N + value, zeros)
        return
    if end - first > most:
        return
    at = state + slot.to(tl.int64) * heads * N * N + value[:, None] * N + tl.arange(0, N)[None, :]
    S = tl.load(at).to(tl.float32)
    if ALONE:
        S = _token(S, streams, strides, first, key, value, readout, out, heads, N, WHOLE)
    else:
        for t in tl.range(first, end, num_stages=3):
            S = _token(S, streams, strides, t, key, value, readout, out, heads, N, WHOLE)
    tl.store(at, as_stored(S, state))


@triton.jit
def _read_out(y, streams, strides, piece_of, slots, r_k, weight, bias, result, width, N: tl.constexpr):
    t = tl.program_id(0)
    c = tl.program_id(1) * N + tl.arange(0, N)
    at = t.to(tl.int64) * width + c
    if tl.load(slots + tl.load(piece_of + t)) < 0:
        tl.store(result + at, tl.zeros((N,), result.dtype.element_ty))
        return
    k = _channel(streams, strides, 2, t, c)
    bonus = tl.sum(_channel(streams, strides, 0, t, c) * k * tl.load(r_k + c), 0)
    value = _channel(streams, strides, 3, t, c)
    gate = _channel(streams, strides, 6, t, c)
    found = _head_result(tl.load(y + at), bonus, value, gate, tl.load(weight + c), tl.load(bias + c), N)
    tl.store(result + at, found.to(result.dtype.element_ty))
