"""The feed-forward half of a layer: most activations are zero, and for few rows what they would be multiplied with is not read."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cortexd_kernels.choices import FEW, FORMULA, Choices, Product
from cortexd_kernels.fused.products import groups_of, pairs_of, precision, products, unpacked
from cortexd_kernels.operators import Columns, Packed

_COLUMNS = 256  # of the sums that one program then adds up


def channel_mix(x: Tensor, mixed: Tensor, key: Packed, value: Columns, choices: Choices = FORMULA) -> None:
    """`Operators.channel_mix`: x fp32 `[T, C]`, mixed `[1, T, C]` in A, key `[F, C]`, value `[F, C]`.

    Where T ≤ 8 moves the key matrix once, and of the value matrix the rows whose activation is not zero in all rows of the step.
    """
    (active,) = products(mixed, key, choices)
    add_columns(x, active, value, choices)


def add_columns(x: Tensor, active: Tensor, value: Columns, choices: Choices = FORMULA) -> None:
    """x += active · value: x fp32 `[T, C]`, active `[T, F]` in A. Where T ≤ 8, rows that no activation needs are not read."""
    count, features = active.shape
    width = x.shape[1]
    block = choices.split(Product(width, features, value.weight.dtype, active.dtype), count)
    across, down = triton.cdiv(width, block.columns), triton.cdiv(count, block.tokens)
    splits = min(triton.cdiv(block.programs, across * down), triton.cdiv(features, block.depth))
    span = triton.cdiv(triton.cdiv(features, splits), block.depth) * block.depth
    splits = triton.cdiv(features, span)
    sums = x if splits == 1 else torch.empty(splits, count, width, device=x.device)
    _columns[(across, down, splits)](
        active,
        value.weight,
        value.weight if value.scales is None else value.scales,
        value.weight if value.groups is None else value.groups,
        sums,
        count,
        features,
        width,
        span,
        BLOCK_T=block.tokens,
        BLOCK_C=block.columns,
        BLOCK_F=block.depth,
        PRECISION=precision(active.dtype),
        STAGES=block.stages,
        SPARSE=triton.next_power_of_2(count) if count <= FEW else 0,
        SCALED=value.scales is not None,
        PAIRED=value.groups is not None,
        ADD=splits == 1,
        num_warps=block.warps,
    )
    if splits > 1:
        grid = (count, triton.cdiv(width, _COLUMNS))
        _add_sums[grid](
            x, sums, splits, count, width, SPLITS=triton.next_power_of_2(splits), BLOCK_C=_COLUMNS, num_warps=4
        )


@triton.jit(do_not_specialize=["count"])
def _columns(
    active,
    value,
    scales,
    groups,
    sums,
    count,
    features,
    width,
    span,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    SPARSE: tl.constexpr,  # rows, rounded up, in whose activations to look for zeros; 0: not worth it
    SCALED: tl.constexpr,
    PAIRED: tl.constexpr,  # in int4
    ADD: tl.constexpr,
):
    """active · value over `span` of the features. A load that is masked out moves nothing; its products are zero without it.

    int8 and int4 weights get their scales before they are rounded to the dtype of `active`.
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.program_id(2)
    row = active + tl.minimum(t, count - 1).to(tl.int64)[:, None] * features
    y = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for start in tl.range(split * span, tl.minimum((split + 1) * span, features), BLOCK_F, num_stages=STAGES):
        f = start + tl.arange(0, BLOCK_F)
        inside = f < features
        used = inside
        if SPARSE > 0:
            used = f < 0
            for i in tl.static_range(SPARSE):
                used = used | (tl.load(active + tl.minimum(i, count - 1) * features + f, mask=inside, other=0.0) != 0.0)
        a = tl.load(row + f[None, :], mask=inside[None, :], other=0.0)
        if PAIRED:
            pairs = pairs_of(value, f.to(tl.int64), used, tl.program_id(0) * BLOCK_C, width, BLOCK_C)
            g = groups_of(groups, f.to(tl.int64), used, tl.program_id(0) * BLOCK_C, width, BLOCK_C)
            v = unpacked(pairs, g, tl.float32)
        else:
            read = value + f.to(tl.int64)[:, None] * width + c[None, :]
            v = tl.load(read, mask=used[:, None] & (c < width)[None, :], other=0.0)
        if SCALED:
            v = v.to(tl.float32) * tl.load(scales + f, mask=inside, other=0.0)[:, None]
        y = tl.dot(a, v.to(active.dtype.element_ty), y, input_precision=PRECISION)
    inside = (t < count)[:, None] & (c < width)[None, :]
    at = sums + (split * count + t).to(tl.int64)[:, None] * width + c[None, :]
    if ADD:
        y += tl.load(at, mask=inside, other=0.0)
    tl.store(at, y, mask=inside)


@triton.jit(do_not_specialize=["count"])
def _add_sums(x, sums, splits, count, width, SPLITS: tl.constexpr, BLOCK_C: tl.constexpr):
    row = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    split = tl.arange(0, SPLITS)
    read = sums + (split * count + row).to(tl.int64)[:, None] * width + c[None, :]
    parts = tl.load(read, mask=(split < splits)[:, None] & (c < width)[None, :], other=0.0)
    at = x + row.to(tl.int64) * width + c
    tl.store(at, tl.load(at, mask=c < width, other=0.0) + tl.sum(parts, 0), mask=c < width)
