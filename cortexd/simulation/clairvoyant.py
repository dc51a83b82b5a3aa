"""The fewest load-seconds that anyone could have spent who knew the future: what an online policy is measured against."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import msgspec

from cortexd.simulation.traces import Trace

_MOST_WAYS = 1000  # to make room for one model, per number of victims
_LEADERS = 64  # states that the others are compared with; more find little more

_States = dict[int, float]  # load-seconds spent so far, by what is resident: one bit a model


class Optimum(msgspec.Struct, frozen=True):
    """`load_seconds` of a schedule that can be carried out. Where it is not `exact`, schedules were given up and a better one
    may exist: a bound from above, so that a policy may be further from the true optimum than from this."""

    load_seconds: float
    exact: bool


def clairvoyant(trace: Trace, budget: int, *, most_states: int = 1000) -> Optimum:
    """Dynamic programming over what is resident after each request, `budget` in bytes, in the sequential model: a request
    is an instant, a miss loads its model, and only a miss evicts. Every model fits into the budget alone.

    Keeping more is never worse, so of what a miss may leave only the maximal sets that fit are followed. Where more than
    `most_states` remain after a request, which a dozen models seldom come to, the dearest are given up. Compared with
    four times as many states, the bound was the same with sixteen models, and 1 % higher with twenty.
    """
    bit_of = {model.name: 1 << i for i, model in enumerate(trace.models)}
    bytes_of = _sum_over([model.bytes for model in trace.models])
    seconds_of = _sum_over([model.load_seconds for model in trace.models])
    assert all(model.bytes <= budget for model in trace.models)
    room = _Room(bytes_of, seconds_of)
    wanted = [bit_of[request.model] for request in trace.requests]
    states: _States = {0: 0.0}
    exact = True
    for bit, later in zip(wanted, _wanted_later(wanted), strict=True):
        after: _States = {}
        for resident, spent in states.items():
            hit = resident & bit
            cost = spent if hit else spent + seconds_of(bit)
            for kept in (resident,) if hit else room.kept(resident, budget - int(bytes_of(bit))):
                useful = (kept | bit) & later
                if cost < after.get(useful, float("inf")):
                    after[useful] = cost
        states = _worth_following(after, seconds_of)
        if len(states) > most_states:
            states, exact = dict(list(states.items())[:most_states]), False
    return Optimum(min(states.values()), exact and not room.gave_up)


def _wanted_later(wanted: Sequence[int]) -> Iterator[int]:
    """For each request, what is asked for after it. Of the rest it does not matter whether it is resident."""
    later = [0]
    for bit in reversed(wanted):
        later.append(later[-1] | bit)
    return reversed(later[:-1])


def _worth_following(states: Mapping[int, float], seconds_of: Callable[[int], float]) -> _States:
    """Without those that another makes superfluous, the cheapest first: one that could load all that only they hold and
    still have spent no more can do from then on whatever they do."""
    followed: _States = {}
    leaders: list[tuple[int, float]] = []
    for resident, spent in sorted(states.items(), key=lambda state: (state[1], state[0])):
        if all(cost + seconds_of(resident & ~leader) > spent for leader, cost in leaders):
            followed[resident] = spent
            if len(leaders) < _LEADERS:
                leaders.append((resident, spent))
    return followed


class _Room:
    """What may be kept of a set when it has to shrink."""

    def __init__(self, bytes_of: Callable[[int], float], seconds_of: Callable[[int], float]) -> None:
        self._bytes_of = bytes_of
        self._seconds_of = seconds_of
        self._known: dict[tuple[int, int], list[int]] = {}
        self.gave_up = False  # some ways were not followed

    def kept(self, resident: int, limit: int) -> Sequence[int]:
        """The maximal subsets of `resident` of at most `limit` bytes."""
        if (resident, limit) not in self._known:
            self._known[resident, limit] = list(self._shrink(resident, limit))
        return self._known[resident, limit]

    def _shrink(self, resident: int, limit: int) -> Iterator[int]:
        too_large = {resident}
        while too_large:
            fewer: set[int] = set()
            for kept in too_large:
                if self._bytes_of(kept) > limit:
                    fewer.update(kept ^ bit for bit in _bits(kept))
                elif all(self._bytes_of(kept | bit) > limit for bit in _bits(resident ^ kept)):
                    yield kept
            if len(fewer) > _MOST_WAYS:
                self.gave_up = True
                fewer = set(sorted(fewer, key=lambda kept: (-self._seconds_of(kept), kept))[:_MOST_WAYS])
            too_large = fewer


def _bits(models: int) -> Iterator[int]:
    while models:
        lowest = models & -models
        yield lowest
        models ^= lowest


def _sum_over(values: Sequence[float]) -> Callable[[int], float]:
    """The sum over a set of models."""

    @cache
    def total(models: int) -> float:
        return sum(value for i, value in enumerate(values) if models >> i & 1)

    return total
