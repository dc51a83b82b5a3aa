"""Which model will be asked for soon, from what was asked for before. Pure: times are told, no clock is read.

Two habits are learnt. After one model people turn to another: how often, and how much later. And a model has its hours in
the week. Each knows nothing of the other's reasons, so what it says is the least that is known, and the larger counts. To
add them up (1 - (1-p)(1-q)) would be right for independent reasons, but both learn from the same requests: a habit that
shows in both would count twice, and a load for nothing is worse than one that was missed.
"""

import math
import time
import zlib
from collections.abc import Callable, Sequence

import msgspec

HORIZON = 300.0  # seconds that a forecast looks ahead
_MODELS = 256  # remembered; then the rarest is forgotten
_FOLLOWERS = 16  # remembered of each

_LONGEST_GAP = 900.0  # seconds after which one request has nothing to do with the one before
_RUNS_KEPT = (
    0.8  # of what earlier runs count for, at each run's end: few, for an old habit misleads until it is forgotten
)
_LEAST_SPREAD = 0.5  # of a delay's logarithm: nobody is more punctual, however few delays were seen
_UNSEEN_RUNS = 1.0  # taken to have led nowhere before the first was seen

_SLOT = 300.0  # seconds
_HOURS = 168  # in a week
_WEEKS_KEPT = 0.8  # of what an hour's earlier weeks count for: half are forgotten in three
_UNSEEN_SLOTS = 12.0  # an hour of this week is taken to be like that hour of other days, as if seen so often

_MEMORY = 0.99  # of earlier judgements, at each: about 100 are remembered
_LEAST_JUDGED = 20
_OFF_BELOW, _ON_ABOVE = 0.30, 0.45


def hour_of_week(at: float) -> int:
    """The local hour since Monday 0:00, of seconds since the epoch."""
    local = time.localtime(at)
    return local.tm_wday * 24 + local.tm_hour


class Follower(msgspec.Struct):
    """A model that is asked for after another one. People's delays are near to log-normal."""

    count: float = 0.0  # runs of the other that led to this one, decayed
    mean: float = 0.0  # of the logarithm of the delay in seconds
    variance: float = 0.0

    def learn(self, delay: float) -> None:
        self.count += 1
        rate, off = 1 / self.count, math.log(max(delay, 1.0)) - self.mean
        self.mean += rate * off
        self.variance = (1 - rate) * (self.variance + rate * off * off)

    def later_than(self, delay: float) -> float:
        """The probability that it comes later than this, if it comes."""
        if delay <= 0:
            return 1.0
        spread = max(math.sqrt(self.variance), _LEAST_SPREAD)
        return math.erfc((math.log(delay) - self.mean) / (spread * math.sqrt(2))) / 2


class Habit(msgspec.Struct):
    """What is known of one model."""

    last: float = -1.0  # asked for, in seconds since the epoch
    slots: dict[int, float] = {}  # by hour of the week: slots in which it was asked for, decayed
    runs: float = 0.0  # that have ended, decayed
    followers: dict[str, Follower] = {}

    def end_run(self, follower: str | None, delay: float) -> None:
        """Its requests came to an end: with one for another model after `delay` seconds, or with none for long."""
        self.runs = self.runs * _RUNS_KEPT + 1
        for each in self.followers.values():
            each.count *= _RUNS_KEPT
        if follower is None:
            return
        if follower not in self.followers and len(self.followers) == _FOLLOWERS:
            del self.followers[min(self.followers, key=lambda name: self.followers[name].count)]
        self.followers.setdefault(follower, Follower()).learn(delay)

    def next_within(self, horizon: float, elapsed: float) -> dict[str, float]:
        """By follower, the probability that it comes within the horizon, given that nothing has for `elapsed` seconds."""
        sure = {name: each.count / (self.runs + _UNSEEN_RUNS) for name, each in self.followers.items()}
        later = {name: each.later_than(elapsed) for name, each in self.followers.items()}
        nothing_yet = 1 - sum(sure[name] * (1 - later[name]) for name in sure)
        return {
            name: sure[name] * (later[name] - each.later_than(elapsed + horizon)) / nothing_yet
            for name, each in self.followers.items()
        }


class _Learnt(msgspec.Struct):
    """All that outlives the daemon."""

    habits: dict[str, Habit] = {}
    observed: list[float] = msgspec.field(default_factory=lambda: [0.0] * _HOURS)  # slots by hour of the week, decayed
    slot: int = -1  # the last that was observed, since the epoch
    hour: int = -1  # of the week, of that slot
    active: bool = True
    hits: int = 0
    misses: int = 0
    recent_hits: float = 0.0
    recent_misses: float = 0.0


class _Run(msgspec.Struct):
    """Requests for one model with none for another between them."""

    model: str
    first: float
    last: float


class Predictor:
    """Learns from each request, and is told of its own forecasts to learn what they are worth.

    All times are wall-clock seconds. Time passes for it whenever it is told or asked something: call `likely` every few
    minutes, for an hour that nobody observed says nothing about what is asked for in it.
    """

    def __init__(self, horizon: float = HORIZON, hour_of_week: Callable[[float], int] = hour_of_week) -> None:
        """`hour_of_week` gives the local hour, 0 to 167, of a time."""
        self._horizon = horizon
        self._hour_of_week = hour_of_week
        self._learnt = _Learnt()
        self._run: _Run | None = None
        self._awaited: dict[str, float] = {}  # by model, when its forecast was made

    @classmethod
    def restored(
        cls, data: bytes, horizon: float = HORIZON, hour_of_week: Callable[[float], int] = hour_of_week
    ) -> "Predictor":
        """One that has learnt what `dump` gave; a damaged payload is ignored."""
        predictor = cls(horizon, hour_of_week)
        if zlib.crc32(data[4:]).to_bytes(4, "big") == data[:4]:
            try:
                predictor._learnt = msgspec.msgpack.decode(data[4:], type=_Learnt)
            except msgspec.DecodeError:
                pass  # another version's
        return predictor

    def dump(self) -> bytes:
        payload = msgspec.msgpack.encode(self._learnt)
        return zlib.crc32(payload).to_bytes(4, "big") + payload

    @property
    def active(self) -> bool:
        """Whether forecasts are worth acting upon. They are judged in any case, so that this may change."""
        return self._learnt.active

    @property
    def hits(self) -> int:
        """Forecasts that came true, ever."""
        return self._learnt.hits

    @property
    def misses(self) -> int:
        """Forecasts that did not, ever."""
        return self._learnt.misses

    @property
    def hit_rate(self) -> float:
        """Of about the last 100 forecasts; 0 where none was judged."""
        learnt = self._learnt
        judged = learnt.recent_hits + learnt.recent_misses
        return learnt.recent_hits / judged if judged else 0.0

    def note(self, model: str, at: float) -> None:
        """It was asked for."""
        self._observe(at)
        if self._awaited.pop(model, None) is not None:
            self._judge(True)
        self._follow(model, at)
        habit = self._habit(model)
        if int(habit.last // _SLOT) != self._learnt.slot:
            hour = self._learnt.hour
            habit.slots[hour] = habit.slots.get(hour, 0.0) + 1
        habit.last = at

    def predicted(self, model: str, at: float) -> None:
        """It is said to be asked for within the horizon, which is judged then. One forecast a model at a time."""
        self._observe(at)
        self._awaited.setdefault(model, at)

    def awaited(self, model: str) -> bool:
        """Whether a forecast for it has not been judged."""
        return model in self._awaited

    def likely(self, now: float, candidates: Sequence[str]) -> list[tuple[str, float]]:
        """The probability of each candidate to be asked for within the horizon, best first."""
        self._observe(now)
        following = self._following(now)
        hours = self._hours_ahead(now)
        each = [(name, max(following.get(name, 0.0), self._in_these(hours, name))) for name in candidates]
        return sorted(each, key=lambda pair: (-pair[1], pair[0]))

    def _observe(self, at: float) -> None:
        """Time has passed. Clocks may be set back, which blurs what is learnt and does no other harm."""
        for model in [model for model, made in self._awaited.items() if not 0 <= at - made <= self._horizon]:
            del self._awaited[model]
            self._judge(False)
        learnt, slot = self._learnt, int(at // _SLOT)
        if slot == learnt.slot:
            return
        hour = self._hour_of_week(at)
        if hour != learnt.hour:
            learnt.observed[hour] *= _WEEKS_KEPT
            for habit in learnt.habits.values():
                if hour in habit.slots:
                    habit.slots[hour] *= _WEEKS_KEPT
        learnt.slot, learnt.hour = slot, hour
        learnt.observed[hour] += 1

    def _judge(self, hit: bool) -> None:
        learnt = self._learnt
        learnt.hits += hit
        learnt.misses += not hit
        learnt.recent_hits = learnt.recent_hits * _MEMORY + hit
        learnt.recent_misses = learnt.recent_misses * _MEMORY + (not hit)
        if learnt.active:
            learnt.active = learnt.hits + learnt.misses < _LEAST_JUDGED or self.hit_rate >= _OFF_BELOW
        else:
            learnt.active = self.hit_rate > _ON_ABOVE

    def _habit(self, model: str) -> Habit:
        habits = self._learnt.habits
        if model not in habits and len(habits) == _MODELS:
            rarest = min(habits, key=lambda name: (sum(habits[name].slots.values()), habits[name].last))
            del habits[rarest]
            for habit in habits.values():
                habit.followers.pop(rarest, None)
        return habits.setdefault(model, Habit())

    def _follow(self, model: str, at: float) -> None:
        """The run of requests for one model goes on, or leads to another model, or has ended long ago."""
        run = self._run
        related = run is not None and at - run.last <= _LONGEST_GAP
        if run is not None and related and run.model == model:
            run.last = at
            return
        if run is not None:
            # The delay is that from the run's first request: whether a run has ended is not known when a forecast is made,
            # but that it has gone on for long tells that the other model does not come this time.
            self._habit(run.model).end_run(model if related else None, at - run.first)
        self._run = _Run(model, at, at)

    def _following(self, now: float) -> dict[str, float]:
        """Probabilities from what was asked for last."""
        run = self._run
        habit = self._learnt.habits.get(run.model) if run is not None else None
        if run is None or habit is None or now - run.last > _LONGEST_GAP:
            return {}
        return habit.next_within(self._horizon, now - run.first)

    def _hours_ahead(self, now: float) -> list[tuple[int, float]]:
        """The hours of the week that the horizon touches, and how many slots it has in each."""
        slots = self._horizon / _SLOT
        parts = math.ceil(slots)
        return [(self._hour_of_week(now + (i + 0.5) * self._horizon / parts), slots / parts) for i in range(parts)]

    def _in_these(self, hours: list[tuple[int, float]], model: str) -> float:
        """The probability of being asked for in at least one of so many slots of these hours."""
        habit = self._learnt.habits.get(model)
        if habit is None:
            return 0.0
        return 1 - math.prod((1 - self._in_slot(hour, habit)) ** slots for hour, slots in hours)

    def _in_slot(self, hour: int, habit: Habit) -> float:
        """The part of this hour's slots in which the model is asked for, drawn towards that of the same hour on all days: so a
        daily habit is known after days, and a weekly one after weeks."""
        same_hour = range(hour % 24, _HOURS, 24)
        observed = self._learnt.observed
        daily = sum(habit.slots.get(h, 0.0) for h in same_hour) / (sum(observed[h] for h in same_hour) + _UNSEEN_SLOTS)
        return (habit.slots.get(hour, 0.0) + _UNSEEN_SLOTS * daily) / (observed[hour] + _UNSEEN_SLOTS)
