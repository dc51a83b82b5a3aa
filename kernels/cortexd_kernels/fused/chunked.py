"""The recurrence of long pieces: matrix products over chunks of C = 64 tokens.

With G_t = Π_{s≤t} w_s inside a chunk, A = −κ⊙G_{t−1}, B = (κ⊙a)/G, K = k/G, R = r⊙G, L = tril₋(A Bᵀ) and S the state that enters:

    W = (I − L)⁻¹ A        Z = (I − L)⁻¹ tril₋(A Kᵀ) V                          _solve      all chunks at once
    D = (I + Wᵀ B) diag(G_C)        E = (Vᵀ K + Zᵀ B) diag(G_C)                 _transition all chunks at once
    S' = S D + E                                                                _carry      chunk after chunk
    Y = R Sᵀ + tril(R Kᵀ) V + tril(R Bᵀ) (W Sᵀ + Z)                             _output     all chunks at once

Why four kernels: one program a head would leave three quarters of an H200 idle at 1 × 1024 tokens and 32 heads. Only S' = S D + E
is sequential, one product a chunk, and its rows are independent, so that 4 programs share a head; everything else is 512 programs.
Four small kernels also need less registers than one that holds all of it.

Products whose factors grow, 1/G, are of numbers relative to the middle of the chunk: w > 0.5453 keeps them within 2^±28. All
arithmetic is fp32 (on the tensor cores of CUDA as three products of tf32 each, which lose some 2^-21).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cortexd_kernels.operators import HEAD, Rows, Streams

CHUNK = 64
_BLOCK = 16  # of what a product sums over: operands of more do not fit into the registers
_SHARE = 32  # columns a program computes, where it need not compute all
_SPLITS = 4  # programs that share the sequential part of a head; 16 columns are the fewest that every product takes


def recurrence(streams: Streams, rows: Rows, state: Tensor, y: Tensor | None = None, least: int = 1) -> Tensor:
    """S ← S·diag(w) − (S κ)(κ⊙a)ᵀ + v kᵀ, y = S r for each token of a piece in turn, as `reference.wkv7_recurrent`: `[T, C]` fp32.

    streams `[T, C]` with contiguous rows, w in fp32 above 0.5453; state `[slots, H, N, N]` in fp32 or fp16, changed in place.
    Pieces that are masked, or shorter than `least`, are left alone: their states, and their rows of `y`, to which results are
    written if it is given.
    """
    count, width = streams.k.shape
    heads = width // HEAD
    chunks = most_chunks(count, rows.pieces, least)
    if y is None:
        y = torch.empty(count, width, dtype=torch.float32, device=state.device)
    w, z, step, added, entering = torch.empty(5, chunks, heads, CHUNK, HEAD, dtype=torch.float32, device=state.device)
    inputs = tuple(streams[:6])
    strides = tuple(stream.stride(0) for stream in inputs)
    where = (rows.starts, rows.slots, rows.pieces, least)
    sizes = {"N": HEAD, "C": CHUNK, "num_warps": 4, "num_stages": 1}
    halves = (heads, chunks, HEAD // _SHARE)
    _solve[heads, chunks](inputs, strides, *where, w, z, BLOCK=_BLOCK, **sizes)
    _transition[halves](inputs, strides, *where, w, z, step, added, BLOCK=_BLOCK, SHARE=_SHARE, **sizes)
    _carry[heads, rows.pieces, _SPLITS](
        rows.starts, rows.slots, least, step, added, entering, state, heads, SHARE=HEAD // _SPLITS, **sizes
    )
    _output[halves](inputs, strides, *where, w, z, entering, y, heads, BLOCK=_BLOCK, SHARE=_SHARE, **sizes)
    return y


def most_chunks(count: int, pieces: int, least: int) -> int:
    """That so many rows can have, where pieces of fewer than `least` have none: of each piece only the last may be not full."""
    return count // CHUNK + min(pieces, count // least)


@triton.jit
def _chunks(starts, slots, base, end, least, C: tl.constexpr):
    """Of 128 pieces from `base` on, but none from `end` on, how many chunks each has; none where there is nothing to do."""
    i = base + tl.arange(0, 128)
    inside = i < end
    length = tl.load(starts + i + 1, mask=inside, other=0) - tl.load(starts + i, mask=inside, other=0)
    taken = (tl.load(slots + i, mask=inside, other=-1) >= 0) & (length >= least)
    return tl.where(taken, tl.cdiv(length, C), 0)


@triton.jit
def _chunk(starts, slots, pieces, least, C: tl.constexpr):
    """First row of this program's chunk, and how many of its rows are the piece's; none where there is nothing to do."""
    chunk = tl.program_id(1)
    before, begin, piece = 0, 0, 0
    for base in range(0, pieces, 128):
        until = before + tl.cumsum(_chunks(starts, slots, base, pieces, least, C), 0)
        passed = until <= chunk
        piece += tl.sum(passed.to(tl.int32), 0)
        begin = tl.maximum(begin, tl.max(tl.where(passed, until, 0), 0))
        before = tl.max(until, 0)
    there = piece < pieces
    first = tl.load(starts + piece, mask=there, other=0) + (chunk - begin) * C
    end = tl.load(starts + piece + 1, mask=there, other=0)
    return first, tl.minimum(end - first, C)


@triton.jit
def _dot(x, y):
    """x y in fp32."""
    return tl.dot(x, y, input_precision="tf32x3" if tl.target_info.is_cuda() else "ieee")


@triton.jit
def _tokens(streams, strides, WHICH: tl.constexpr, first, t, channel, count, other):
    """Tokens t of the chunk, `channel` of one of the streams, in fp32; `other` from token `count` on."""
    at = (first + t).to(tl.int64)[:, None] * strides[WHICH] + channel[None, :]
    return tl.load(streams[WHICH] + at, mask=t[:, None] < count, other=other).to(tl.float32)


@triton.jit
def _own(ROWS: tl.constexpr, COLUMNS: tl.constexpr, row, column):
    """Where rows and columns of this program's matrix lie among those of all chunks and heads."""
    which = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    return which * ROWS * COLUMNS + row[:, None] * COLUMNS + column[None, :]


@triton.jit
def _centred(G, t, C: tl.constexpr):
    """G relative to its row at the middle of the chunk, and that row `[1, …]`."""
    middle = tl.sum(tl.where((t == C // 2 - 1)[:, None], G, 0.0), 0)[None, :]
    return G / middle, middle


@triton.jit
def _merged(T, L, N: tl.constexpr, P: tl.constexpr):
    """From the inverses T `[2N, P, P]` of the blocks on the diagonal of I − L those of twice the size, `[N, 2P, 2P]`.

    L `[N, 2P, 2P]`:  (I − L)⁻¹ = (T₀, 0; T₁ O T₀, T₁)   where O is the lower left quarter of L.
    """
    half = tl.arange(0, 2)
    first = (half == 0)[None, :, None, None]
    T = tl.reshape(T, (N, 2, P, P))
    L = tl.reshape(L, (N, 2, P, 2, P))
    lower = (half[:, None] > half[None, :])[None, :, None, :, None]
    below = tl.sum(tl.sum(tl.where(lower, L, 0.0), 3), 1)
    upper_inverse, lower_inverse = tl.sum(tl.where(first, T, 0.0), 1), tl.sum(tl.where(first, 0.0, T), 1)
    if N == 1:
        flat = _dot(tl.reshape(lower_inverse, (P, P)), tl.reshape(below, (P, P)))
        corner = tl.reshape(_dot(flat, tl.reshape(upper_inverse, (P, P))), (1, P, P))
    else:
        corner = _dot(_dot(lower_inverse, below), upper_inverse)
    diagonal = (half[:, None] == half[None, :])[None, :, None, :, None]
    whole = tl.where(diagonal, T[:, :, :, None, :], tl.where(lower, corner[:, None, :, None, :], 0.0))
    return tl.reshape(whole, (N, 2 * P, 2 * P))


@triton.jit
def _diagonal(L, C: tl.constexpr, P: tl.constexpr):
    """The blocks on the diagonal of L `[C, C]`: `[C / P, P, P]`."""
    block = tl.arange(0, C // P)
    own = block[:, None, None, None] == block[None, None, :, None]
    return tl.sum(tl.where(own, tl.reshape(L, (C // P, P, C // P, P)), 0.0), 2)


@triton.jit
def _inverse(L, C: tl.constexpr, P: tl.constexpr):
    """(I − L)⁻¹ for a strictly lower L `[C, C]`, C = 4 P: row by row in blocks of P on the diagonal, which then are merged by twos.

    Powers of L would be faster, but with nearly the same κ in every row they grow as binomial coefficients, and cancel.
    """
    row = tl.arange(0, P)
    small = _diagonal(L, C, P)
    T = tl.broadcast_to((row[:, None] == row[None, :]).to(tl.float32)[None, :, :], (C // P, P, P))
    for i in range(1, P):
        here = (row == i)[None, :, None]
        weights = tl.sum(tl.where(here, small, 0.0), 1)
        T += tl.where(here, tl.sum(weights[:, :, None] * T, 1)[:, None, :], 0.0)
    T = _merged(T, _diagonal(L, C, 2 * P), 2, P)
    return tl.reshape(_merged(T, L[None, :, :], 1, 2 * P), (C, C))


@triton.jit
def _decays(streams, strides, first, t, c, count, C: tl.constexpr):
    """G_t and G_{t−1} relative to the middle of the chunk, and the G there, of the channels c of all tokens t."""
    w = _tokens(streams, strides, 1, first, t, c, count, 1.0)
    G, middle = _centred(tl.cumprod(w, 0), t, C)
    return G, G / w, middle


@triton.jit
def _solve(
    streams, strides, starts, slots, pieces, least, w_out, z_out, N: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr
):
    """W and Z of one chunk in one head, fp32 `[C, N]` each."""
    first, count = _chunk(starts, slots, pieces, least, C)
    if count <= 0:
        return
    head = tl.program_id(0) * N
    t = tl.arange(0, C)
    block = tl.arange(0, BLOCK)
    earlier = t[:, None] > t[None, :]
    AK = tl.zeros((C, C), tl.float32)
    for base in range(0, N, BLOCK):
        c = head + base + block
        G, before, _ = _decays(streams, strides, first, t, c, count, C)
        A = -_tokens(streams, strides, 4, first, t, c, count, 0.0) * before
        AK += _dot(A, tl.trans(_tokens(streams, strides, 2, first, t, c, count, 0.0) / G))
    AK = tl.where(earlier, AK, 0.0)
    for base in range(0, N, BLOCK):
        V = _tokens(streams, strides, 3, first, t, head + base + block, count, 0.0)
        tl.store(z_out + _own(C, N, t, base + block), _dot(AK, V))
    L = tl.zeros((C, C), tl.float32)
    for base in range(0, N, BLOCK):
        c = head + base + block
        G, before, _ = _decays(streams, strides, first, t, c, count, C)
        kappa = _tokens(streams, strides, 4, first, t, c, count, 0.0)
        L -= _dot(kappa * before, tl.trans(kappa * _tokens(streams, strides, 5, first, t, c, count, 0.0) / G))
    T = _inverse(tl.where(earlier, L, 0.0), C, C // 4)
    tl.debug_barrier()  # other threads wrote to z_out what these read
    for base in range(0, N, BLOCK):
        at = _own(C, N, t, base + block)
        tl.store(z_out + at, _dot(T, tl.load(z_out + at)))
    for base in range(0, N, BLOCK):
        c = head + base + block
        _, before, middle = _decays(streams, strides, first, t, c, count, C)
        A = _tokens(streams, strides, 4, first, t, c, count, 0.0) * before
        tl.store(w_out + _own(C, N, t, base + block), _dot(T, A) * -middle)


@triton.jit
def _transition(
    streams,
    strides,
    starts,
    slots,
    pieces,
    least,
    w_in,
    z_in,
    step,
    added,
    N: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    SHARE: tl.constexpr,
):
    """SHARE columns of Dᵀ and Eᵀ of one chunk in one head, fp32 `[N, N]` each, from the last tokens to the first."""
    first, count = _chunk(starts, slots, pieces, least, C)
    if count <= 0:
        return
    key = tl.arange(0, N)
    c = tl.program_id(0) * N + key
    column = tl.program_id(2) * SHARE + tl.arange(0, SHARE)
    D = tl.zeros((N, SHARE), tl.float32)
    E = tl.zeros((N, SHARE), tl.float32)
    later = tl.full((1, N), 1.0, tl.float32)  # the product of all decays after these tokens
    for base in range(0, C, BLOCK):
        t = C - BLOCK - base + tl.arange(0, BLOCK)
        w = _tokens(streams, strides, 1, first, t, c, count, 1.0)
        from_here = tl.cumprod(w, 0, reverse=True) * later
        decay = from_here / w
        later = tl.sum(tl.where((tl.arange(0, BLOCK) == 0)[:, None], from_here, 0.0), 0)[None, :]
        K = _tokens(streams, strides, 2, first, t, c, count, 0.0) * decay
        E += _dot(tl.trans(K), _tokens(streams, strides, 3, first, t, tl.program_id(0) * N + column, count, 0.0))
        kappa = _tokens(streams, strides, 4, first, t, c, count, 0.0)
        B = tl.trans(kappa * _tokens(streams, strides, 5, first, t, c, count, 0.0) * decay)
        at = _own(C, N, t, column)
        E += _dot(B, tl.load(z_in + at))
        D += _dot(B, tl.load(w_in + at))
    D += tl.where(key[:, None] == column[None, :], tl.trans(later), 0.0)
    at = _own(N, N, key, column)
    tl.store(step + at, D)
    tl.store(added + at, E)


@triton.jit
def as_stored(S, state):
    """In the dtype of `state`: what is too large for fp16 becomes its largest number, not infinity."""
    if state.dtype.element_ty == tl.float16:
        S = tl.where(S > 65504.0, 65504.0, S)
        S = tl.where(S < -65504.0, -65504.0, S)
    return S.to(state.dtype.element_ty)


@triton.jit
def _carry(
    starts,
    slots,
    least,
    step,  # Dᵀ of all chunks
    added,  # their Eᵀ
    entering,  # the Sᵀ that enters each; not where Eᵀ was, which is read ahead
    state,
    heads,
    N: tl.constexpr,
    C: tl.constexpr,
    SHARE: tl.constexpr,
):
    """S ← S D + E over the chunks of one piece, in SHARE rows of the state of one head."""
    head, piece = tl.program_id(0), tl.program_id(1)
    start = tl.load(starts + piece)
    length = tl.load(starts + piece + 1) - start
    slot = tl.load(slots + piece)
    if (slot < 0) | (length < least):
        return
    key = tl.arange(0, N)[:, None]
    value = (tl.program_id(2) * SHARE + tl.arange(0, SHARE))[None, :]
    own = state + (slot.to(tl.int64) * heads + head) * N * N + value * N + key
    S = tl.load(own).to(tl.float32)
    chunk = 0
    for earlier in range(0, piece, 128):
        chunk += tl.sum(_chunks(starts, slots, earlier, piece, least, C), 0)
    for c in tl.range(chunk, chunk + tl.cdiv(length, C), num_stages=3):
        base = (tl.cast(c, tl.int64) * heads + head) * N * N
        D = tl.load(step + base + key * N + tl.arange(0, N)[None, :])
        at = base + key * N + value
        E = tl.load(added + at)
        tl.store(entering + at, S)
        S = _dot(D, S) + E
    tl.store(own, as_stored(S, state))


@triton.jit
def _output(
    streams,
    strides,
    starts,
    slots,
    pieces,
    least,
    w_in,
    z_in,
    entering,
    y,
    heads,
    N: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    SHARE: tl.constexpr,
):
    """SHARE columns (values) of Y of one chunk in one head."""
    first, count = _chunk(starts, slots, pieces, least, C)
    if count <= 0:
        return
    head = tl.program_id(0) * N
    t = tl.arange(0, C)
    block = tl.arange(0, BLOCK)
    value = tl.program_id(2) * SHARE + tl.arange(0, SHARE)
    until = t[:, None] >= t[None, :]
    RK = tl.zeros((C, C), tl.float32)
    for base in range(0, N, BLOCK):
        c = head + base + block
        G, _, _ = _decays(streams, strides, first, t, c, count, C)
        R = _tokens(streams, strides, 0, first, t, c, count, 0.0) * G
        RK += _dot(R, tl.trans(_tokens(streams, strides, 2, first, t, c, count, 0.0) / G))
    Y = _dot(tl.where(until, RK, 0.0), _tokens(streams, strides, 3, first, t, head + value, count, 0.0))
    U = tl.load(z_in + _own(C, N, t, value))
    for base in range(0, N, BLOCK):
        i = base + block
        S = tl.load(entering + _own(N, N, i, value))
        U += _dot(tl.load(w_in + _own(C, N, t, i)), S)
        G = tl.cumprod(_tokens(streams, strides, 1, first, t, head + i, count, 1.0), 0)
        Y += _dot(_tokens(streams, strides, 0, first, t, head + i, count, 0.0) * G, S)
    RB = tl.zeros((C, C), tl.float32)
    for base in range(0, N, BLOCK):
        c = head + base + block
        G, _, _ = _decays(streams, strides, first, t, c, count, C)
        R = _tokens(streams, strides, 0, first, t, c, count, 0.0) * G
        kappa = _tokens(streams, strides, 4, first, t, c, count, 0.0)
        RB += _dot(R, tl.trans(kappa * _tokens(streams, strides, 5, first, t, c, count, 0.0) / G))
    Y += _dot(tl.where(until, RB, 0.0), U)
    to = (first + t).to(tl.int64)[:, None] * (heads * N) + head + value[None, :]
    tl.store(y + to, Y, mask=t[:, None] < count)
