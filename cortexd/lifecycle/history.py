"""What was learnt of models: how much they hold, how long they load, how often they are wanted. Estimates end where it begins."""

import math
from collections import deque
from collections.abc import Callable
from statistics import median_low
from time import time
from typing import Protocol

from cortexd.catalogue.spec import ModelSpec
from cortexd.lifecycle.use import Use
from cortexd.moments import Moments

_FIRST_HEADROOM = 1.10  # of an estimate that nothing was measured against
# Of the mean: one life unlike all others must not make a model too large for ever.
_LEAST_HEADROOM, _MOST_HEADROOM = 0.02, 0.3
_DEVIATIONS = 2.0
_USUAL_RATE = 400e6  # bytes of weights per second, where no load was measured
_USUAL_START = 0.2  # seconds
_RECENT = 5  # values of which the median is what is usual
_FRESH = 1.0  # seconds for which a computed rate is good
_RESUME = 0.25  # of a load, where no resume was measured


def high(seen: Moments) -> float:
    """What the next value will hardly exceed: the less was seen of it, the further away."""
    spread = max(_DEVIATIONS * seen.deviation, _LEAST_HEADROOM * seen.mean) * (1 + 2 / seen.count)
    return seen.mean + min(spread, _MOST_HEADROOM * seen.mean)


class Recorder(Protocol):
    """Where measurements go that shall outlive the daemon."""

    def __call__(self, spec: ModelSpec, what: str, device: str, value: float) -> None: ...


class History:
    """Keyed by weights and strategy, so that a new version of a file starts afresh; uses by name."""

    def __init__(
        self,
        estimate: Callable[[ModelSpec], dict[str, int]],
        record: Recorder | None = None,
        now: Callable[[], float] = time,
    ) -> None:
        """`now` is wall-clock time: uses are remembered beyond a restart."""
        self._estimate = estimate
        self._record = record
        self._now = now
        self._known: dict[tuple[str, str, str, str], Moments] = {}
        self._recent: dict[tuple[str, str, str, str], deque[float]] = {}
        self._medians: dict[tuple[str, str, str, str], float] = {}  # of what is recent
        self._uses: dict[str, Use] = {}
        self._rates: dict[str, tuple[float, float]] = {}  # when it was computed, and what

    def recall(self, weights: str, strategy: str, what: str, device: str, seen: Moments) -> None:
        """What an earlier daemon had learnt."""
        self._known[weights, strategy, what, device] = seen

    def note_use(self, name: str) -> None:
        self._uses.setdefault(name, Use()).note(self._now())
        self._rates.pop(name, None)

    def rate(self, name: str) -> float:
        """Uses per second to be expected from now on; asked for at each decision, and so not computed anew each time."""
        now = self._now()
        at, rate = self._rates.get(name, (-math.inf, 0.0))
        if not at <= now < at + _FRESH:
            rate = self._uses[name].rate(now) if name in self._uses else 0.0
            self._rates[name] = now, rate
        return rate

    def uses(self) -> dict[str, Use]:
        return self._uses

    def remember_uses(self, uses: dict[str, Use]) -> None:
        self._uses.update(uses)

    def note(self, spec: ModelSpec, what: str, device: str, value: float) -> None:
        key = (spec.weights or spec.name, spec.strategy, what, device)
        self._known[key] = self._known.get(key, Moments()).including(value)
        recent = self._recent.setdefault(key, deque(maxlen=_RECENT))
        recent.append(value)
        self._medians[key] = median_low(recent)
        if self._record is not None:
            self._record(spec, what, device, value)

    def expected(self, spec: ModelSpec) -> dict[str, int]:
        """Bytes by device to reserve for a load: the measured peak, or the estimate and headroom."""
        needed: dict[str, int] = {}
        for device, estimate in self._estimate(spec).items():
            peak = self._get(spec, "peak_bytes", device)
            needed[device] = round(high(peak) if peak is not None else estimate * _FIRST_HEADROOM)
        return needed

    def load_seconds(self, spec: ModelSpec) -> float:
        """How long the next load will take, probably."""
        usual = self._usual(spec, "load_seconds")
        return usual if usual is not None else _USUAL_START + spec.size / _USUAL_RATE

    def resume_seconds(self, spec: ModelSpec) -> float:
        usual = self._usual(spec, "resume_seconds")
        return usual if usual is not None else _RESUME * self.load_seconds(spec)

    def _usual(self, spec: ModelSpec, what: str) -> float | None:
        """The median of late: the first load of all converts weights, and one on a busy machine says little of the next."""
        median = self._medians.get((spec.weights or spec.name, spec.strategy, what, ""))
        if median is not None:
            return median
        measured = self._get(spec, what, "")
        return measured.mean if measured is not None else None

    def _get(self, spec: ModelSpec, what: str, device: str) -> Moments | None:
        return self._known.get((spec.weights or spec.name, spec.strategy, what, device))
