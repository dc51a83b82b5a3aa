"""How a model is used, and so how soon it will probably be wanted again."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

_BOUNDS = tuple(10.0 * 2**octave for octave in range(18))  # seconds since the last use: 10 s to 15 days
_STARTS = (0.0, *_BOUNDS)
_ENDS = (*_BOUNDS, math.inf)
_TYPICAL = (5.0, *(1.4 * start for start in _BOUNDS))  # seconds, by band
_WHOLE = tuple((end - start) / typical for start, end, typical in zip(_STARTS, _ENDS, _TYPICAL, strict=True))
_KEPT = 0.98  # of the past, at each use
_HORIZON = 1800.0  # seconds ahead that matter


class Use(msgspec.Struct):
    """When a model that has been quiet for so long was used again, and when it stayed quiet: counted in bands of time since
    its last use, each twice as long as the one before, and slowly forgotten. So whatever its habits are, they show: asked
    all day alike, in bursts, once an hour, in turn with another. A band without evidence says "as likely again within
    twice the time as not", which is to say: the last used first.

    Counting uses on one or several time scales was tried. A long scale is 3 % better where requests are independent of each
    other, and several times worse where they come in turns, as it keeps models whose conversation is over; a short one
    forgets what is asked for rarely but always. `cortexd simulate` shows what this one does.

    Times are in seconds from any origin. A clock that was set back is taken to stand still.
    """

    last: float | None = None  # never used: none
    uses: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(_TYPICAL))  # by band
    quiet: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(_TYPICAL))  # by band, in times _TYPICAL

    def note(self, at: float) -> None:
        """It was used."""
        if self.last is None:
            self.last = at
            return
        age = max(0.0, at - self.last)
        self.uses = [_KEPT * count for count in self.uses]
        self.uses[bisect_right(_BOUNDS, age)] += 1
        self.quiet = [_KEPT * before + more for before, more in zip(self.quiet, _spent(age), strict=True)]
        self.last += age

    def rate(self, now: float) -> float:
        """Uses per second to be expected in the next while: the constant rate at which it would be as likely to be used
        within the horizon, which ends after half an hour on average."""
        if self.last is None:
            return 0.0
        age = max(0.0, now - self.last)
        quiet = [before + more for before, more in zip(self.quiet, _spent(age), strict=True)]
        still_quiet, used, horizon_ended = 1.0, 0.0, 0.0
        uses, octaves = _smooth(self.uses), _smooth(quiet)
        for band in range(bisect_right(_BOUNDS, age), len(_TYPICAL)):
            rate = (uses[band] + 1) / (octaves[band] + 1) / _TYPICAL[band]
            either = rate + 1 / _HORIZON
            ends_here = still_quiet * -math.expm1(-either * (_ENDS[band] - max(age, _STARTS[band])))
            used += ends_here * rate / either
            horizon_ended += ends_here / (either * _HORIZON)
            still_quiet -= ends_here
        return used / (horizon_ended * _HORIZON)


def _spent(age: float) -> list[float]:
    """How long a model of this age was in each band, in times _TYPICAL."""
    band = bisect_right(_BOUNDS, age)
    later = len(_TYPICAL) - band - 1
    return [*_WHOLE[:band], (age - _STARTS[band]) / _TYPICAL[band], *[0.0] * later]


def _smooth(counts: Sequence[float]) -> list[float]:
    """Neighbouring bands are evidence too, half as good."""
    padded = [0.0, *counts, 0.0]
    return [here + (before + after) / 2 for before, here, after in zip(padded, counts, padded[2:], strict=False)]
