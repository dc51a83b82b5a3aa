"""Drawing one token a row where the logits are: only ids leave the device.

Each filter keeps a prefix of the tokens in falling order of logits, of equal ones those with the lowest ids first. So what is kept
is two numbers: the smallest logit, the edge, and how many of those equal to it. The edge is found by halving the interval between
two floats, taken as integers of the same order, until they are neighbours: at most 32 sums over a row, and nothing is ever sorted.

    _prepare   logits with penalties, biases and bans; the largest of each 256         a program for 4096 tokens of a row
    _gather    drops what cannot be kept, by bounds that follow from these maxima      a program for 4096 tokens of a row
    _draw      finds the edge among what remains, mostly a few hundred, and draws      a program a row
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = tl.constexpr(4096)  # tokens of a row that lie together
_GROUP = tl.constexpr(256)  # tokens of whose logits the largest is noted
_TILE = tl.constexpr(4096)  # tokens of all blocks that are looked at together
_LINE = tl.constexpr(1024)  # tokens of one block that are looked at together
_ALL = tl.constexpr(1 << 30)  # more than there can be
_LOG2_E = tl.constexpr(1.4426950408889634)
_COLDEST = tl.constexpr(1e-5)  # below this temperature the largest logit wins for certain

_TEMPERATURE, _TOP_P, _TOP_K, _MIN_P, _PRESENCE, _FREQUENCY, _DECAY, _RWKV, _UNIFORM, _SLOT, _BIASED, _FIELDS = (
    tl.constexpr(i) for i in range(12)
)


def sample(
    logits: Tensor,
    draws: Tensor,
    counts: Tensor | None = None,
    bias: Tensor | None = None,
    banned: Tensor | None = None,
    uncounted: Tensor | None = None,
) -> Tensor:
    """`Sample`: logits `[B, V]` → int32 `[B]`. Moves the logits three times, and what of the tables is asked for once or twice."""
    batch, vocabulary = logits.shape
    blocks = triton.cdiv(vocabulary, _BLOCK.value)
    groups = blocks * _BLOCK.value // _GROUP.value

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    x, ids = empty(batch, blocks, _BLOCK.value, dtype=torch.float32), empty(batch, blocks, _BLOCK.value)
    maxima, cutoffs = empty(batch, groups, dtype=torch.float32), empty(batch, dtype=torch.float32)
    remaining, weights = empty(batch, blocks), empty(batch, blocks, dtype=torch.float64)
    tokens = empty(batch)
    found = (x, ids, remaining, weights, cutoffs)
    sizes = {"GROUPS": triton.next_power_of_2(groups), "BLOCKS": triton.next_power_of_2(blocks)}
    tables = (counts, bias, banned)
    _prepare[blocks, batch](logits, logits.stride(0), draws, *tables, x, maxima, vocabulary, num_warps=8)
    _gather[blocks, batch](draws, maxima, *found, vocabulary, GROUPS=sizes["GROUPS"], num_warps=8)
    _draw[batch,](draws, maxima, *found, counts, uncounted, tokens, vocabulary, **sizes, num_warps=16)
    return tokens


@triton.jit
def _field(draws, row, WHICH: tl.constexpr):
    return tl.load(draws + row * _FIELDS + WHICH)


@triton.jit
def _number(draws, row, WHICH: tl.constexpr):
    return _field(draws, row, WHICH).to(tl.float32)


@triton.jit
def _whole(draws, row, WHICH: tl.constexpr):
    return _field(draws, row, WHICH).to(tl.int32)


@triton.jit
def _key(x):
    """Integers in the order of the floats x."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _float(key):
    """The float of which this is the key."""
    key = key.to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _weigh(x, peak, temperature):
    """e^((x − peak) / temperature)"""
    return tl.exp2((x - peak) * (_LOG2_E / temperature))


@triton.jit
def _peak(maxima, row, groups, GROUPS: tl.constexpr):
    """The largest logit of a row; -inf if there is none."""
    i = tl.arange(0, GROUPS)
    return tl.max(tl.load(maxima + row * groups + i, mask=i < groups, other=float("-inf")), 0)


@triton.jit
def _prepare(logits, stride, draws, counts, bias, banned, x, maxima, vocabulary):
    """x: the logits of a block with what is added to them, -inf for those never drawn; and the largest of each group."""
    block, row = tl.program_id(0), tl.program_id(1)
    slot = _field(draws, row, _SLOT).to(tl.int64)
    if slot < 0:
        return
    i = block * _BLOCK + tl.arange(0, _BLOCK)
    inside = i < vocabulary
    found = tl.load(logits + row.to(tl.int64) * stride + i, mask=inside, other=float("-inf")).to(tl.float32)
    if bias is not None:
        biased = inside & (_whole(draws, row, _BIASED) != 0)
        found += tl.load(bias + slot * vocabulary + i, mask=biased, other=0.0)
    if counts is not None:
        presence, frequency = _number(draws, row, _PRESENCE), _number(draws, row, _FREQUENCY)
        penalised = tl.where((presence != 0) | (frequency != 0), 1, 0)
        counted = inside & (penalised != 0)
        at = counts + slot * vocabulary + i
        count = tl.load(at, mask=counted, other=-1.0)
        found -= tl.where(count >= 0, presence + count * frequency, 0.0)
        tl.store(at, count * _number(draws, row, _DECAY), mask=counted & (count > 0))
    if banned is not None:
        found = tl.where(tl.load(banned + i, mask=inside, other=0) != 0, float("-inf"), found)
    found = tl.where(tl.abs(found) < float("inf"), found, float("-inf"))
    found = tl.where(found == 0, 0.0, found)  # -0 has another key
    at = row * tl.num_programs(0) + block
    tl.store(x + at.to(tl.int64) * _BLOCK + tl.arange(0, _BLOCK), found)
    largest = tl.max(tl.reshape(found, (_BLOCK // _GROUP, _GROUP)), 1)
    tl.store(maxima + at * (_BLOCK // _GROUP) + tl.arange(0, _BLOCK // _GROUP), largest)


@triton.jit
def _ranked(maxima, row, groups, k, GROUPS: tl.constexpr):
    """The k-th largest of the maxima of a row."""
    i = tl.arange(0, GROUPS)
    mine = tl.load(maxima + row * groups + i, mask=i < groups, other=float("-inf"))
    rank = tl.zeros((GROUPS,), tl.int32)
    for base in range(0, groups, 16):
        j = base + tl.arange(0, 16)[None, :]
        other = tl.load(maxima + row * groups + j)
        before = (other > mine[:, None]) | ((other == mine[:, None]) & (j < i[:, None]))
        rank += tl.sum(before.to(tl.int32), 1)
    return tl.max(tl.where(rank == k - 1, mine, float("-inf")), 0)


@triton.jit
def _bounded(draws, row, maxima, groups, peak, vocabulary, GROUPS: tl.constexpr):
    """A logit below which nothing can be kept, and the temperature at which top_p and min_p are meant."""
    rwkv = _whole(draws, row, _RWKV) != 0
    cold = _number(draws, row, _TEMPERATURE) < _COLDEST
    temperature = tl.where(rwkv | cold, 1.0, _number(draws, row, _TEMPERATURE))
    top_p, top_k, min_p = _number(draws, row, _TOP_P), _whole(draws, row, _TOP_K), _number(draws, row, _MIN_P)
    limited = (top_k > 0) & (top_k < vocabulary)
    cutoff = tl.where(cold, peak, float("-inf"))
    # In OpenAI's order top_p is a share of what top_k leaves: all of that must be there.
    if (top_p >= 1) | (limited == 0) | rwkv:
        if min_p > 0:
            cutoff = tl.maximum(cutoff, peak + temperature * (tl.log(tl.minimum(min_p, 1.0)) - 1e-3))
        if top_p < 1:
            # All below together weigh less than 1 - p of the largest alone.
            cutoff = tl.maximum(cutoff, peak - temperature * (tl.log(vocabulary / (1 - top_p)) + 1))
    if limited & (top_k <= groups):
        cutoff = tl.maximum(cutoff, _ranked(maxima, row, groups, top_k, GROUPS))
    return cutoff, temperature


@triton.jit
def _gather(draws, maxima, x, ids, remaining, weights, cutoffs, vocabulary, GROUPS: tl.constexpr):
    """Moves what is not below the cutoff to the front of its block, in order, with its ids; without a cutoff all stays in place."""
    block, row = tl.program_id(0), tl.program_id(1)
    groups = tl.num_programs(0) * (_BLOCK // _GROUP)
    if _field(draws, row, _SLOT) < 0:
        return
    peak = _peak(maxima, row, groups, GROUPS)
    if peak == float("-inf"):
        return
    cutoff, temperature = _bounded(draws, row, maxima, groups, peak, vocabulary, GROUPS)
    at = row * tl.num_programs(0) + block
    own = at.to(tl.int64) * _BLOCK
    i = tl.arange(0, _BLOCK)
    found = tl.load(x + own + i)
    tl.store(weights + at, tl.sum(_weigh(found, peak, temperature).to(tl.float64), 0))
    if block == 0:
        tl.store(cutoffs + row, cutoff)
    if cutoff == float("-inf"):
        tl.store(remaining + at, _BLOCK)
    else:
        stays = found >= cutoff
        place = tl.cumsum(stays.to(tl.int32), 0)
        tl.debug_barrier()  # each is read before another takes its place
        tl.store(x + own + place - 1, found, mask=stays)
        tl.store(ids + own + place - 1, block * _BLOCK + i, mask=stays)
        tl.store(remaining + at, tl.max(place, 0))


@triton.jit
def _above(x, remaining, peak, temperature, key):
    """Of each block, how many of the `remaining` logits have at least this key, and what they weigh."""
    COLUMNS: tl.constexpr = _TILE // remaining.shape[0]
    block = tl.arange(0, remaining.shape[0])[:, None]
    count = tl.zeros(remaining.shape, tl.int32)
    weight = tl.zeros(remaining.shape, tl.float64)
    for base in range(0, tl.max(remaining, 0), COLUMNS):
        i = base + tl.arange(0, COLUMNS)[None, :]
        found = tl.load(x + block * _BLOCK + i, mask=i < remaining[:, None], other=float("-inf"))
        taken = _key(found) >= key
        count += tl.sum(taken.to(tl.int32), 1)
        weight += tl.sum(tl.where(taken, _weigh(found, peak, temperature), 0.0), 1).to(tl.float64)
    return count, weight


@triton.jit
def _total(x, remaining, peak, temperature, key, by_weight):
    """How many logits of the row have at least this key, or what they weigh."""
    count, weight = _above(x, remaining, peak, temperature, key)
    return tl.where(by_weight, tl.sum(weight, 0), tl.sum(count, 0).to(tl.float64))


@triton.jit
def _kept(x, remaining, peak, temperature, edge, ties):
    """Of each block, how many logits at the edge are kept, how many in all, and what these weigh."""
    larger, weight = _above(x, remaining, peak, temperature, edge + 1)
    count, _ = _above(x, remaining, peak, temperature, edge)
    equal = count - larger
    before = tl.cumsum(equal, 0) - equal
    equal = tl.minimum(tl.maximum(ties - before, 0), equal)
    return equal, larger + equal, weight + equal * _weigh(_float(edge), peak, temperature).to(tl.float64)


@triton.jit
def _cut(x, remaining, peak, temperature, edge, ties, goal, by_weight, equals):
    """The edge, and how many that equal it are kept, of the fewest of what is kept until now that reach `goal`.

    With `equals`, of what is as large as the last of them too.
    """
    low, high = edge, _key(peak).to(tl.int64) + 1
    while high - low > 1:
        middle = low + (high - low) // 2
        reached = _total(x, remaining, peak, temperature, middle, by_weight) >= goal
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    larger = _total(x, remaining, peak, temperature, low + 1, by_weight)
    each = tl.where(by_weight, _weigh(_float(low), peak, temperature), 1.0).to(tl.float64)
    most = tl.where(low == edge, ties, _ALL)
    needed = tl.minimum(tl.maximum(tl.ceil((goal - larger) / each), 1.0), most.to(tl.float64)).to(tl.int32)
    return low, tl.where(equals, most, needed)


@triton.jit
def _filtered(draws, row, x, remaining, total, peak, cutoff, vocabulary):
    """The edge (a key), and how many that equal it are kept, after top_k and top_p in their order, and min_p."""
    edge, ties = _key(cutoff).to(tl.int64), tl.cast(_ALL, tl.int32)
    rwkv = _whole(draws, row, _RWKV) != 0
    temperature = tl.where(rwkv, 1.0, _number(draws, row, _TEMPERATURE))
    top_p, top_k, min_p = _field(draws, row, _TOP_P), _whole(draws, row, _TOP_K), _field(draws, row, _MIN_P)
    limited = (top_k > 0) & (top_k < vocabulary)
    for turn in range(2):
        by_weight = (turn == 0) == rwkv
        if tl.where(by_weight, top_p < 1, limited):
            _, count, weight = _kept(x, remaining, peak, temperature, edge, ties)
            kept = tl.where(by_weight, tl.sum(weight, 0), tl.sum(count, 0).to(tl.float64))
            # Without top_k before it, top_p is a share of all, also of what lies below the cutoff.
            share = top_p * tl.where(limited & (rwkv == 0), kept, total)
            goal = tl.where(by_weight, share, top_k.to(tl.float64))
            if goal < kept:
                equals = by_weight & rwkv
                edge, ties = _cut(x, remaining, peak, temperature, edge, ties, goal, by_weight, equals)
    if min_p > 0:
        least = _key((peak + temperature * tl.log(tl.minimum(min_p, 1.0))).to(tl.float32)).to(tl.int64)
        if least > edge:
            edge, ties = least, tl.cast(_ALL, tl.int32)
    return edge, ties


@triton.jit
def _place(x, remaining, peak, temperature, edge, ties, goal):
    """Where in one block the running sum of the weights of what is kept exceeds `goal`."""
    place, last, equal_before, weight_before = tl.cast(_ALL, tl.int32), 0, 0, tl.cast(0.0, tl.float64)
    for base in range(0, remaining, _LINE):
        i = base + tl.arange(0, _LINE)
        found = tl.load(x + i, mask=i < remaining, other=float("-inf"))
        key = _key(found)
        equal = (key == edge).to(tl.int32)
        kept = (key > edge) | ((equal != 0) & (tl.cumsum(equal, 0) + equal_before <= ties))
        weight = tl.where(kept, _weigh(found, peak, temperature), 0.0).to(tl.float64)
        sums = tl.cumsum(weight, 0) + weight_before
        place = tl.minimum(place, tl.min(tl.where(sums > goal, i, _ALL), 0))
        last = tl.maximum(last, tl.max(tl.where(weight > 0, i, 0), 0))
        equal_before += tl.sum(equal, 0)
        weight_before += tl.sum(weight, 0)
    return tl.where(place == _ALL, last, place)  # the sum of the block was rounded otherwise


@triton.jit
def _draw(
    draws,
    maxima,
    x,
    ids,
    remaining,
    weights,
    cutoffs,
    counts,
    uncounted,
    tokens,
    vocabulary,
    BLOCKS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """The first id at which the running sum of the weights of what is kept, in the order of ids, exceeds `uniform` of them all."""
    row = tl.program_id(0)
    blocks = tl.cdiv(vocabulary, _BLOCK)
    slot = _field(draws, row, _SLOT).to(tl.int64)
    tl.store(tokens + row, -1)
    if slot < 0:
        return
    peak = _peak(maxima, row, blocks * (_BLOCK // _GROUP), GROUPS)
    if peak == float("-inf"):
        return
    block = tl.arange(0, BLOCKS)
    left = tl.load(remaining + row * blocks + block, mask=block < blocks, other=0)
    total = tl.sum(tl.load(weights + row * blocks + block, mask=block < blocks, other=0.0), 0)
    cutoff, temperature = tl.load(cutoffs + row), _number(draws, row, _TEMPERATURE)
    own = row.to(tl.int64) * blocks * _BLOCK
    edge, ties = _key(peak).to(tl.int64), tl.cast(1, tl.int32)
    if temperature < _COLDEST:
        temperature = 1.0
    else:
        edge, ties = _filtered(draws, row, x + own, left, total, peak, cutoff, vocabulary)
    equal, _, weight = _kept(x + own, left, peak, temperature, edge, ties)
    goal = _field(draws, row, _UNIFORM) * tl.sum(weight, 0)
    chosen = tl.sum((tl.cumsum(weight, 0) <= goal).to(tl.int32), 0)
    chosen = tl.minimum(chosen, tl.max(tl.where(weight > 0, block, 0), 0))
    goal = tl.maximum(goal - tl.sum(tl.where(block < chosen, weight, 0.0), 0), 0.0)
    left, ties = tl.sum(tl.where(block == chosen, left, 0), 0), tl.sum(tl.where(block == chosen, equal, 0), 0)
    own += chosen * _BLOCK
    place = _place(x + own, left, peak, temperature, edge, ties, goal)
    token = chosen * _BLOCK + place
    if cutoff > float("-inf"):
        token = tl.load(ids + own + place)
    tl.store(tokens + row, token)
    if counts is not None:
        penalised = (_field(draws, row, _PRESENCE) != 0) | (_field(draws, row, _FREQUENCY) != 0)
        counted = 1.0
        if uncounted is not None:
            # An uncounted token is present all the same.
            counted = tl.where((_whole(draws, row, _RWKV) != 0) & (tl.load(uncounted + token) != 0), 0.0, 1.0)
        at = counts + slot * vocabulary + token
        tl.store(at, tl.maximum(tl.load(at), 0.0) + counted, mask=penalised)
