"""Products of the rows of a step with packed weights, and what follows each.

Few rows: every weight is read once, by one program, and multiplied with all rows in fp32; memory is the limit. More: tensor cores,
on tiles of rows and weights. int8 and int4 weights are widened in registers; the scales of rows are applied to the sums. Those of
int4's groups are applied to the sums of 32 columns where rows are few, else to the weights, which bf16 then rounds to 8 bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cortexd_kernels.choices import FEW, FORMULA, Choices, Product, Tile, Vector
from cortexd_kernels.native.layout import GROUP
from cortexd_kernels.operators import UNIT, Packed

_GROUP = tl.constexpr(GROUP)


def products(streams: Tensor, packed: Packed, choices: Choices = FORMULA) -> tuple[Tensor, ...]:
    """`Operators.products`: streams `[M, T, C]` → `[T, part.rows]` for each part. Moves the R·C weights once where T ≤ 8."""
    results = torch.empty(streams.shape[1], len(packed.weight), dtype=streams.dtype, device=streams.device)
    multiply(streams, packed, results, choices=choices)
    return packed.split(results)


def product_add(x: Tensor, y: Tensor, packed: Packed, choices: Choices = FORMULA) -> None:
    """`Operators.product_add`: x fp32 `[T, R]` += y `[T, C]` · Wᵀ. Moves the weights, y once and x twice where T ≤ 8."""
    multiply(y.unsqueeze(0), packed, x, add=True, choices=choices)


def multiply(streams: Tensor, packed: Packed, out: Tensor, *, add: bool = False, choices: Choices = FORMULA) -> None:
    """What every product is: streams `[M, T, C]`, out `[T, R]` of any dtype, added to where `add`."""
    assert all(tensor.is_contiguous() for tensor in (streams, packed.weight, out))
    assert packed.groups is None or packed.groups.is_contiguous()
    assert streams.shape[1] > 0, "of no rows a kernel does not even compile"
    product = Product(len(packed.weight), streams.shape[2], packed.weight.dtype, streams.dtype)
    if streams.shape[1] <= FEW:
        _multiply_few(streams, packed, out, add, choices.vector(product))
    else:
        _multiply_many(streams, packed, out, add, choices.tile(product, streams.shape[1]))


def precision(dtype: torch.dtype) -> str:
    """Of `tl.dot`: fp32 is not rounded to fewer bits."""
    return "ieee" if dtype is torch.float32 else "tf32"


def _multiply_few(streams: Tensor, packed: Packed, out: Tensor, add: bool, block: Vector) -> None:
    _, count, depth = streams.shape
    assert UNIT % block.rows == 0, "no tile has rows of two parts"
    _few_rows[(len(packed.tiles(block.rows)),)](
        *_operands(streams, packed, block.rows, out),
        ROWS=triton.next_power_of_2(count),
        BLOCK_R=block.rows,
        BLOCK_C=min(block.depth, triton.next_power_of_2(depth)),
        GROUP=block.group if packed.groups is None else GROUP,
        STAGES=block.stages,
        SCALED=packed.scales is not None,
        PAIRED=packed.groups is not None,
        ADD=add,
        SINGLE=int(packed.parts[0].activation) if len(packed.parts) == 1 and packed.parts[0].stream == 0 else -1,
        num_warps=block.warps,
    )


def _multiply_many(streams: Tensor, packed: Packed, out: Tensor, add: bool, block: Tile) -> None:
    count = streams.shape[1]
    _many_rows[(len(packed.tiles(block.rows)), triton.cdiv(count, block.tokens))](
        *_operands(streams, packed, block.rows, out),
        BLOCK_T=block.tokens,
        BLOCK_R=block.rows,
        BLOCK_C=block.depth,
        PRECISION=precision(streams.dtype),
        STAGES=block.stages,
        SCALED=packed.scales is not None,
        PAIRED=packed.groups is not None,
        ADD=add,
        EVEN=all(part.rows % block.rows == 0 for part in packed.parts),
        num_warps=block.warps,
    )


def _operands(streams: Tensor, packed: Packed, rows: int, out: Tensor) -> tuple[Tensor | int, ...]:
    """What both kernels take first; `rows` are those of a tile."""
    scales, groups = (packed.weight if tensor is None else tensor for tensor in (packed.scales, packed.groups))
    _, count, depth = streams.shape
    return streams, packed.weight, scales, groups, packed.tiles(rows), out, count, depth, len(packed.weight)


@triton.jit
def tanh(x):
    """By its series where the difference below would lose digits."""
    return tl.where(tl.abs(x) < 0.03, x * (1 - x * x / 3), 2 * tl.sigmoid(2 * x) - 1)


@triton.jit
def activated(x, activation):
    """By the numbers of `Activation`."""
    if activation == 1:
        x = tanh(x)
    elif activation == 2:
        x = tl.sigmoid(x)
    elif activation == 3:
        x = tl.maximum(x, 0.0)
        x = x * x
    return x


@triton.jit
def pairs_of(weight, rows, used, start, depth, BLOCK_C: tl.constexpr, EVICTION: tl.constexpr = ""):
    """Columns from `start` on of int4 in pairs: `[R, C/2]`, unread and zero where not `used` `[R]`."""
    count = tl.multiple_of(depth // 2, 16)  # in a row; a whole group is 16
    c = start // 2 + tl.arange(0, BLOCK_C // 2)
    read = weight + rows[:, None] * count + c[None, :]
    return tl.load(read, mask=used[:, None] & (c < count)[None, :], other=0, eviction_policy=EVICTION)


@triton.jit
def groups_of(groups, rows, used, start, depth, BLOCK_C: tl.constexpr):
    """Their scales `[R, C/32]`, from words that hold four each: less than a word is not brought ahead of its time."""
    WORDS: tl.constexpr = (BLOCK_C + 127) // 128
    EACH: tl.constexpr = BLOCK_C // WORDS // 32
    count = (depth + 127) // 128
    c = start // 128 + tl.arange(0, WORDS)
    words = tl.load(groups + rows[:, None] * count + c[None, :], mask=used[:, None] & (c < count)[None, :], other=0)
    shift = 8 * (start // 32 % 4 + tl.arange(0, EACH))
    return tl.reshape((words[:, :, None] >> shift[None, None, :]).to(tl.int8), (rows.shape[0], WORDS * EACH))


@triton.jit
def unpaired(pairs, dtype: tl.constexpr):
    """`[R, C]` from int4 in pairs `[R, C/2]`."""
    lower = (pairs << 4).to(tl.int8, bitcast=True) >> 4
    upper = pairs.to(tl.int8, bitcast=True) >> 4
    both = tl.join(lower.to(dtype), upper.to(dtype))
    return tl.reshape(both, (pairs.shape[0], 2 * pairs.shape[1]))


@triton.jit
def unpacked(pairs, groups, dtype: tl.constexpr):
    """`[R, C]` from int4 in pairs `[R, C/2]`, with their scales `[R, C/32]`."""
    numbers = tl.reshape(unpaired(pairs, dtype), (groups.shape[0], groups.shape[1], _GROUP))
    return tl.reshape(numbers * groups.to(dtype)[:, :, None], (groups.shape[0], groups.shape[1] * _GROUP))


@triton.jit(do_not_specialize=["count"])
def _few_rows(
    x,
    weight,
    scales,
    groups,
    tiles,
    out,
    count,
    depth,
    results,
    ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRED: tl.constexpr,  # in int4, of which GROUP columns have one scale
    ADD: tl.constexpr,
    SINGLE: tl.constexpr,  # there is one part, which ends in this activation; else -1
):
    """Sums stay apart by thread until the end: only numbers that one thread holds are added within the loop.

    Parts begin at multiples of BLOCK_R, so that no weight waits for the table of tiles.
    """
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    own = tl.minimum(r, results - 1).to(tl.int64)
    read = weight + own[:, None] * depth
    activation = SINGLE
    if SINGLE < 0:
        tile = tiles + tl.program_id(0) * 4
        x += tl.load(tile + 2).to(tl.int64) * count * depth
        activation = tl.load(tile + 3)
    # On AMD what is brought ahead lies in registers, and with all of these rows beside int4 there would be none left.
    AHEAD: tl.constexpr = STAGES if tl.target_info.is_cuda() or not PAIRED or ROWS <= 4 else 1
    sums = (tl.zeros((BLOCK_R, BLOCK_C // GROUP), tl.float32),)
    for _ in tl.static_range(1, ROWS):
        sums += (tl.zeros((BLOCK_R, BLOCK_C // GROUP), tl.float32),)
    for start in tl.range(0, depth, BLOCK_C, num_stages=AHEAD):
        c = start + tl.arange(0, BLOCK_C)
        inside = c < depth
        if PAIRED:
            w = unpaired(pairs_of(weight, own, own >= 0, start, depth, BLOCK_C, "evict_first"), tl.float32)
            g = groups_of(groups, own, own >= 0, start, depth, BLOCK_C)
        else:
            w = tl.load(read + c[None, :], mask=inside[None, :], other=0.0, eviction_policy="evict_first").to(
                tl.float32
            )
        more = ()
        for t in tl.static_range(ROWS):
            row = tl.load(x + tl.minimum(t, count - 1) * depth + c, mask=inside, other=0.0).to(tl.float32)
            terms = tl.reshape(w * row[None, :], (BLOCK_R, BLOCK_C // GROUP, GROUP))
            part = tl.sum(terms, 2)
            more += (sums[t] + (part * g.to(tl.float32) if PAIRED else part),)
        sums = more
    for t in tl.static_range(ROWS):
        y = tl.sum(sums[t], 1)
        if SCALED:
            y *= tl.load(scales + own)
        _store(out + t * results + r, activated(y, activation), (r < results) & (t < count), ADD)


@triton.jit(do_not_specialize=["count"])
def _many_rows(
    x,
    weight,
    scales,
    groups,
    tiles,
    out,
    count,
    depth,
    results,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRED: tl.constexpr,
    ADD: tl.constexpr,
    EVEN: tl.constexpr,  # every tile is full
):
    tile = tiles + tl.program_id(0) * 4
    end = tl.load(tile + 1)
    r = tl.multiple_of(tl.load(tile), 16) + tl.arange(0, BLOCK_R)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    x += tl.load(tile + 2).to(tl.int64) * count * depth
    x_row = x + tl.minimum(t, count - 1).to(tl.int64)[:, None] * depth
    own = (r if EVEN else tl.minimum(r, end - 1)).to(tl.int64)
    sums = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
    for start in tl.range(0, depth, BLOCK_C, num_stages=STAGES):
        c = start + tl.arange(0, BLOCK_C)
        rows = tl.load(x_row + c[None, :], mask=(c < depth)[None, :], other=0.0)
        if PAIRED:
            pairs = pairs_of(weight, own, own >= 0, start, depth, BLOCK_C)
            g = groups_of(groups, own, own >= 0, start, depth, BLOCK_C)
            w = tl.trans(unpacked(pairs, g, x.dtype.element_ty))
        else:
            read = weight + own[None, :] * depth + c[:, None]
            w = tl.load(read, mask=(c < depth)[:, None], other=0.0).to(x.dtype.element_ty)
        sums = tl.dot(rows, w, sums, input_precision=PRECISION)
    if SCALED:
        sums *= tl.load(scales + own)[None, :]
    sums = activated(sums, tl.load(tile + 3))
    inside = (t < count)[:, None]
    if not EVEN:
        inside = inside & (r < end)[None, :]
    _store(out + t.to(tl.int64)[:, None] * results + r[None, :], sums, inside, ADD)


@triton.jit
def _store(out, y, mask, ADD: tl.constexpr):
    if ADD:
        y += tl.load(out, mask=mask, other=0.0).to(tl.float32)
    tl.store(out, y.to(out.dtype.element_ty), mask=mask)
