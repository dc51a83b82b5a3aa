"""Drawing the next token of each sequence from its logits."""

import hashlib
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cortexd.wire import Sampling

_LOG2_E = math.log2(math.e)
_COLDEST = 1e-5  # below this temperature the largest logit wins for certain, and a division by it might overflow
_FEW = 64  # among so many of the largest logits the edge of a truncation usually lies
_ROWS = 16  # into which the logits are folded to find the largest faster
_BUCKETS, _BUCKETS_PER_UNIT = 4096, 64  # of the distance to the largest logit


class SavedSampler(msgspec.Struct, frozen=True, array_like=True):
    """A sampler between two draws."""

    sampling: Sampling
    occurrences: dict[int, float]
    step: int


class SamplerState:
    """What drawing for one sequence depends on, besides the logits. `uncounted` tokens are exempt from RWKV's frequency penalty.

    Where it is `penalised`, what has been drawn counts.
    """

    def __init__(self, sampling: Sampling, uncounted: frozenset[int] = frozenset()) -> None:
        self.sampling = sampling
        self.occurrences: dict[int, float] = {}
        self.step = 0
        self._uncounted = uncounted if sampling.order == "rwkv" else frozenset[int]()
        self.penalised = bool(sampling.presence_penalty or sampling.frequency_penalty)

    @classmethod
    def restored(cls, saved: SavedSampler, uncounted: frozenset[int] = frozenset()) -> "SamplerState":
        state = cls(saved.sampling, uncounted)
        state.occurrences, state.step = dict(saved.occurrences), saved.step
        return state

    def save(self) -> SavedSampler:
        return SavedSampler(self.sampling, self.occurrences, self.step)

    def uniform(self) -> float:
        """A number between 0 and 1 that depends on seed, choice and step alone; 53 bits, the last one set, so never 0."""
        key = f"{self.sampling.seed}/{self.sampling.choice}/{self.step}"
        bits = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 11
        return (bits | 1) * 2.0**-53

    def additions(
        self,
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """Ids, and what is added to the logit of each, one after the other: biases, and -(presence + count x frequency)."""
        s = self.sampling
        # numpy reads dictionaries ten times as fast as torch reads lists.
        counts = np.fromiter(self.occurrences.values(), np.float64)
        bias = np.fromiter(s.logit_bias.values(), np.float64)
        ids = np.fromiter((*s.logit_bias, *self.occurrences), np.int64)
        return ids, np.concatenate((bias, -(s.presence_penalty + counts * s.frequency_penalty)))

    def adjust(self, logits: Tensor) -> None:
        """Makes these additions to `logits` `[V]`, in place."""
        ids, added = self.additions()
        if len(ids):
            values = torch.as_tensor(added, device=logits.device, dtype=logits.dtype)
            logits.index_add_(0, torch.as_tensor(ids, device=logits.device), values)

    def advance(self, token: int) -> None:
        """Takes note of the token that was drawn."""
        self.step += 1
        if not self.penalised:
            return
        if (decay := self.sampling.penalty_decay) != 1.0:
            self.occurrences = {id: count * decay for id, count in self.occurrences.items()}
        # An uncounted token is present all the same: that is how ChatRWKV does it.
        self.occurrences[token] = self.occurrences.get(token, 0.0) + (token not in self._uncounted)


class BrokenLogits(ValueError):
    """`rows` hold no finite number that could be drawn."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"no token can be drawn in row(s) {', '.join(map(str, rows))}: no logit is a finite number")
        self.rows = rows


@torch.inference_mode()
def sample(logits: Tensor, states: Sequence[SamplerState], banned: Tensor | None = None) -> list[int]:
    """One token for each row of `logits` `[B, V]` in fp32, never one of the `banned` ids; the states advance.

    Rows are computed one by one, so that a row's token depends on this row and its state alone, to the last bit. Numbers that are
    not finite are never drawn; raises BrokenLogits, before any state has advanced, where a row has no others.
    """
    drawn = [_draw(row, state, banned) for row, state in zip(logits, states, strict=True)]
    if broken := [row for row, token in enumerate(drawn) if token is None]:
        raise BrokenLogits(broken)
    tokens = [token for token in drawn if token is not None]
    for state, token in zip(states, tokens, strict=True):
        state.advance(token)
    return tokens


def _draw(row: Tensor, state: SamplerState, banned: Tensor | None) -> int | None:
    x = row.clone(memory_format=torch.contiguous_format)
    state.adjust(x)
    if banned is not None:
        x.index_fill_(0, banned, -math.inf)
    peak = float(x.amax())
    if not math.isfinite(peak):
        x = torch.where(x.isfinite(), x, -math.inf)
        peak = float(x.amax())
        if peak == -math.inf:
            return None
    s = state.sampling
    if s.temperature < _COLDEST:
        return _first_largest(x)
    candidates = _Candidates(x, peak)
    if s.order == "rwkv":
        candidates = candidates.top_p(s.top_p, 1.0, equals=True).top_k(s.top_k).min_p(s.min_p, 1.0)
    else:
        candidates = candidates.top_k(s.top_k).top_p(s.top_p, s.temperature, equals=False).min_p(s.min_p, s.temperature)
    return candidates.draw(s.temperature, state.uniform())


class _Candidates:
    """Logits that may be drawn, in the order of their `ids` (None: all there are); -inf marks one that no longer may.

    Of equal logits on both sides of an edge, those with the lowest ids stay.
    """

    def __init__(self, logits: Tensor, peak: float, ids: Tensor | None = None) -> None:
        self._logits = logits
        self._peak = peak  # the largest of them: always stays
        self._ids = ids

    def top_k(self, k: int) -> "_Candidates":
        """The `k` largest; all if `k` is 0."""
        if not 0 < k < len(self._logits):
            return self
        if k <= _FEW:
            return self._first(k, *_largest(self._logits, k + 1))
        return self._down_to(*self._edge(torch.ones_like(self._logits), k))

    def top_p(self, p: float, temperature: float, equals: bool) -> "_Candidates":
        """The fewest that together have probability `p`, or with `equals` those that are as large as the last of them too."""
        if p >= 1.0:
            return self
        values, at = _largest(self._logits, min(_FEW, len(self._logits)))
        few = self._weights(values, temperature)
        sums = few.cumsum(0, dtype=torch.float64)
        # All weigh at least what these few do, and at most that and for each other as much as the last of them.
        least = float(sums[-1])
        most = least + (len(self._logits) - len(values)) * float(few[-1])
        count = _reaching(sums, p * least)
        if count >= len(values) or count != _reaching(sums, p * most):
            weights = self._weights(self._logits, temperature)
            goal = p * float(weights.sum(dtype=torch.float64))
            count = _reaching(sums, goal)
            if count >= len(values):
                edge, beyond = self._edge(weights, goal)
                return self._down_to(edge, 0 if equals else beyond)
        if equals and (count := int((values >= values[count - 1]).sum())) == len(values):
            return self._down_to(float(values[-1]), 0)
        return self._first(count, values, at)

    def min_p(self, p: float, temperature: float) -> "_Candidates":
        """Those whose probability is at least `p` times that of the largest."""
        if p <= 0.0:
            return self
        return self._down_to(self._peak + temperature * math.log(min(p, 1.0)), 0)

    def draw(self, temperature: float, uniform: float) -> int:
        """The first id at which the running sum of probabilities, in the order of ids, exceeds `uniform`."""
        # In float32 the sum of many small numbers stops growing, and whatever comes last would never be drawn.
        sums = self._weights(self._logits, temperature).cumsum(0, dtype=torch.float64)
        # uniform <= 1 - 2**-53 keeps the product below the last sum, rounding included, and a weight of 0 is never met.
        at = int(torch.searchsorted(sums, uniform * float(sums[-1]), right=True))
        return at if self._ids is None else int(self._ids[at])

    def _weights(self, logits: Tensor, temperature: float) -> Tensor:
        return (logits - self._peak).mul_(_LOG2_E / temperature).exp2_()  # exp2 takes half the time of exp

    def _first(self, count: int, values: Tensor, at: Tensor) -> "_Candidates":
        """The `count` largest, given more than these, in falling order, and their places."""
        edge = float(values[count - 1])
        if float(values[count]) == edge:
            return self._down_to(edge, int((self._logits >= edge).sum()) - count)
        at = at[:count].sort().values
        return _Candidates(self._logits[at], self._peak, at if self._ids is None else self._ids[at])

    def _down_to(self, edge: float, beyond: int) -> "_Candidates":
        """Those not less than `edge`, without the last `beyond` of those equal to it."""
        below = float(np.nextafter(np.float32(edge), np.float32(-math.inf)))
        logits = F.threshold(self._logits, below, -math.inf)
        if beyond:
            logits[(logits == edge).nonzero().flatten()[-beyond:]] = -math.inf
        return _Candidates(logits, self._peak, self._ids)

    def _edge(self, weights: Tensor, goal: float) -> tuple[float, int]:
        """The logit at which the sum of `weights`, in falling order of logits, reaches `goal`, and how many equals it leaves out.

        The bucket that holds it is found by a histogram, so that only that bucket needs sorting.
        """
        bucket = ((self._peak - self._logits) * _BUCKETS_PER_UNIT).clamp_(max=_BUCKETS - 1).to(torch.int64)
        sums = torch.zeros(_BUCKETS, dtype=torch.float64, device=weights.device)
        sums = sums.scatter_add_(0, bucket, weights.double()).cumsum(0)
        goal = min(goal, float(sums[-1]))  # summed in another order it might lie beyond
        found = _reaching(sums, goal) - 1
        within = (bucket == found).nonzero().flatten()
        values, order = self._logits[within].sort(descending=True)
        sums_within = weights[within[order]].cumsum(0, dtype=torch.float64)
        goal -= float(sums[found - 1]) if found else 0.0
        count = min(_reaching(sums_within, goal), len(values))
        edge = float(values[count - 1])
        return edge, int((values >= edge).sum()) - count


def _reaching(sums: Tensor, goal: float) -> int:
    """How many terms it takes until their running sum reaches `goal`; one more than there are if it never does."""
    return int(torch.searchsorted(sums, goal)) + 1


def _largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of `x` in falling order, and their ids.

    They lie in the `count` columns of the folded vector whose maxima are largest: a third of the time of topk over all.
    """
    columns = len(x) // _ROWS
    if len(x) % _ROWS or count * 4 > columns:
        values, ids = x.topk(count)
        return values, ids
    folded = x.view(_ROWS, columns)
    best = folded.amax(0).topk(count, sorted=False).indices
    values, at = folded[:, best].flatten().topk(count)
    return values, at // count * columns + best[at % count]


def _first_largest(x: Tensor) -> int:
    """The first id with the largest logit; ten times as fast as argmax over all where the vector can be folded."""
    if len(x) % _ROWS:
        return int(x.argmax())
    folded = x.view(_ROWS, -1)
    row = int(folded.amax(1).argmax())
    return row * folded.shape[1] + int(folded[row].argmax())
