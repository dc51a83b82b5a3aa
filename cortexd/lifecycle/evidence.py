"""How sure it is that one of two models does worse than the other, while requests go on.

Looking again after each request would make a test with a fixed sample size err sooner or later. These measure evidence by what
a gambler has made of 1 who bets on it, at odds that are fair if there is no difference: then he has ever reached 1/a with a
probability of at most a, however often anybody looks (Ville's inequality).
"""

import math
from collections import deque
from statistics import fmean, median

import msgspec

_CERTAIN = 700.0  # of which exp is still a number
_BLOCK = 8  # first tokens that are compared with each other
_BLOCKS = 64  # that medians are of
_STAKES = (0.125, 0.25, 0.5, 0.75)  # of what he has: small differences need small ones, large ones are found sooner


class Count(msgspec.Struct):
    """How many requests failed."""

    requests: int = 0
    failures: int = 0

    def note(self, failed: bool) -> None:
        self.requests += 1
        self.failures += failed

    @property
    def share(self) -> float:
        return self.failures / self.requests if self.requests else 0.0


def more_failures(one: Count, other: Count) -> float:
    """The evidence that `one` fails more often than `other`.

    The likelihood of what was seen, as one would have foretold it by and by for each alone (Krichevsky-Trofimov), in that
    which the best common rate gives it, chosen afterwards: universal inference (Wasserman, Ramdas and Balakrishnan 2020).
    """
    if one.share <= other.share:
        return 0.0
    both = Count(one.requests + other.requests, one.failures + other.failures)
    return math.exp(min(_foretold(one) + _foretold(other) - _best(both), _CERTAIN))


def _foretold(count: Count) -> float:
    return _log_beta(count.failures + 0.5, count.requests - count.failures + 0.5) - _log_beta(0.5, 0.5)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _best(count: Count) -> float:
    outcomes = (count.failures, count.requests - count.failures)
    return sum(n * math.log(n / count.requests) for n in outcomes if n)


class Slowness:
    """The evidence that one has its first tokens later than another.

    Requests are compared in blocks of neighbours: if there is no difference, who was the slower of two is a coin's toss,
    whatever else changes in the course of time.
    """

    def __init__(self) -> None:
        self._block: list[tuple[bool, float]] = []
        self._ones: deque[list[float]] = deque(maxlen=_BLOCKS)
        self._others: deque[list[float]] = deque(maxlen=_BLOCKS)
        self._won = [1.0] * len(_STAKES)

    def note(self, is_one: bool, milliseconds: float) -> None:
        self._block.append((is_one, milliseconds))
        if len(self._block) < _BLOCK:
            return
        ones = [value for is_one, value in self._block if is_one]
        others = [value for is_one, value in self._block if not is_one]
        self._block = []
        if ones and others:
            self._ones.append(ones)
            self._others.append(others)
            # Mann and Whitney's U, from -1, all of one faster, to 1, all slower; its mean is 0 if there is no difference.
            slower = fmean((one > other) - (one < other) for one in ones for other in others)
            self._won = [won * (1 + stake * slower) for won, stake in zip(self._won, _STAKES, strict=True)]

    @property
    def evidence(self) -> float:
        return fmean(self._won)

    def medians(self) -> tuple[float, float]:
        """Of the one's and the other's first tokens in the last blocks, in ms; NaN without any."""
        one, other = ([value for block in blocks for value in block] for blocks in (self._ones, self._others))
        return (median(one), median(other)) if one else (math.nan, math.nan)
