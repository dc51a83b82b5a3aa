"""The second half of the low-rank products, up to what the recurrence takes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cortexd_kernels.fused.products import precision
from cortexd_kernels.operators import HEAD, Inner, LowRankOut, Streams

_FEW = 4  # rows that are computed one by one: tensor cores take 16


def head_streams(inner: Inner, weights: LowRankOut, v_first: Tensor | None) -> Streams:
    """`Operators.head_streams`; inner as `products` gives it, in A.

    One of the three or four low-rank products by each program. Moves their C·Σrank weights once (up to four rows: once a row, from
    the cache), and for each row k, v and v_first in, w (fp32), k, v, κ, a and g out.
    """
    count, width = inner.k.shape
    residual = inner.v_rank is not None
    low_rank = [part for part in inner[3:] if part is not None]
    few = count <= _FEW
    tokens, channels, depth = (1, 16, 128) if few else (16 if count <= 64 else 64, HEAD, 64)
    if inner.k.dtype is torch.float32 and not few:
        tokens, depth = min(tokens, 32), 32
    w = torch.empty(count, width, device=inner.k.device)
    results = torch.empty(5 if residual else 4, count, width, dtype=inner.k.dtype, device=inner.k.device)
    _head_streams[(width // channels, triton.cdiv(count, tokens), 4 if residual else 3)](
        (inner.w_rank, inner.a_rank, inner.g_rank, inner.v_rank),
        (weights.w, weights.a, weights.g, weights.v),
        tuple(part.shape[1] for part in low_rank),
        tuple(part.stride(0) for part in low_rank),
        (weights.w0, weights.a0, weights.v0, weights.k_k, weights.k_a),
        (inner.k, inner.v, v_first),
        (inner.k.stride(0), inner.v.stride(0), v_first.stride(0) if residual else 0),
        w,
        results,
        count,
        width,
        BLOCK_T=tokens,
        BLOCK_C=channels,
        BLOCK_D=depth,
        N=HEAD,
        FEW=few,
        PRECISION=precision(inner.k.dtype),
        num_warps=2 if few else 4,
    )
    k, kappa, a, g = results[:4]
    return Streams(inner.r, w, k, results[4] if residual else inner.v, kappa, a, g)


@triton.jit
def _outer(
    inner,
    outer,
    rank,
    row,
    t,
    c,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Rows t of the inner product times rows c of the outer matrix: `[BLOCK_T, BLOCK_C]` in fp32; a single row where FEW."""
    sums = tl.zeros((BLOCK_C, BLOCK_D) if FEW else (BLOCK_T, BLOCK_C), tl.float32)
    for start in tl.range(0, rank, BLOCK_D, num_stages=2):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(inner + t.to(tl.int64)[:, None] * row + d[None, :], mask=(d < rank)[None, :], other=0.0)
        if FEW:
            w = tl.load(outer + c[:, None] * rank + d[None, :], mask=(d < rank)[None, :], other=0.0)
            sums += w.to(tl.float32) * x.to(tl.float32)
        else:
            w = tl.load(outer + c[None, :] * rank + d[:, None], mask=(d < rank)[:, None], other=0.0)
            sums = tl.dot(x, w, sums, input_precision=PRECISION)
    return tl.sum(sums, 1)[None, :] if FEW else sums


@triton.jit(do_not_specialize=["count"])
def _head_streams(
    inner,
    outer,
    ranks,
    inner_rows,
    vectors,
    sources,
    source_rows,
    w,
    results,
    count,
    width,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    N: tl.constexpr,
    FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Strides are those of rows; results k, κ, a, g, v lie one after the other."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    rows = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    inside = (rows < count)[:, None]
    t = tl.minimum(rows, count - 1)
    to = rows.to(tl.int64)[:, None] * width + c[None, :]
    size = tl.cast(count, tl.int64) * width
    dtype = results.dtype.element_ty
    w0, a0, v0, k_k, k_a = vectors
    kind = tl.program_id(2)
    if kind == 0:
        y = _outer(inner[0], outer[0], ranks[0], inner_rows[0], t, c, BLOCK_T, BLOCK_C, BLOCK_D, FEW, PRECISION)
        y = tl.exp(-0.6065306597126334 * tl.sigmoid(y + tl.load(w0 + c)[None, :]))
        tl.store(w + to, y, mask=inside)
    elif kind == 1:
        y = _outer(inner[1], outer[1], ranks[1], inner_rows[1], t, c, BLOCK_T, BLOCK_C, BLOCK_D, FEW, PRECISION)
        y = tl.sigmoid(y + tl.load(a0 + c)[None, :])
        tl.store(results + 2 * size + to, y.to(dtype), mask=inside)
        k = tl.load(sources[0] + t.to(tl.int64)[:, None] * source_rows[0] + c[None, :]).to(tl.float32)
        changed = k * (1 + (y - 1) * tl.load(k_a + c)[None, :])
        tl.store(results + to, changed.to(dtype), mask=inside)
        scale = _inverse_norms(sources[0], k_k, source_rows[0], t, (tl.program_id(0) * BLOCK_C) // N * N, N)
        kappa = k * tl.load(k_k + c)[None, :] * scale[:, None]
        tl.store(results + size + to, kappa.to(dtype), mask=inside)
    elif kind == 2:
        y = _outer(inner[2], outer[2], ranks[2], inner_rows[2], t, c, BLOCK_T, BLOCK_C, BLOCK_D, FEW, PRECISION)
        tl.store(results + 3 * size + to, y.to(dtype), mask=inside)
    elif sources[2] is not None:
        y = _outer(inner[3], outer[3], ranks[3], inner_rows[3], t, c, BLOCK_T, BLOCK_C, BLOCK_D, FEW, PRECISION)
        v = tl.load(sources[1] + t.to(tl.int64)[:, None] * source_rows[1] + c[None, :]).to(tl.float32)
        first = tl.load(sources[2] + t.to(tl.int64)[:, None] * source_rows[2] + c[None, :]).to(tl.float32)
        v += (first - v) * tl.sigmoid(y + tl.load(v0 + c)[None, :])
        tl.store(results + 4 * size + to, v.to(dtype), mask=inside)


@triton.jit
def _inverse_norms(k, k_k, row, t, head, N: tl.constexpr):
    """1 / max(‖k⊙k_k‖, 1e-12) over the channels of a head, of rows t."""
    c = head + tl.arange(0, N)
    x = tl.load(k + t.to(tl.int64)[:, None] * row + c[None, :]).to(tl.float32) * tl.load(k_k + c)[None, :]
    return 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)
