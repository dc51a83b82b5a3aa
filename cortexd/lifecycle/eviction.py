"""Which idle models go when memory is short: the set that is cheapest to be without. Pure: no clock, no log, no wait."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

_UNIT = 1e-12  # costs are compared as whole multiples of this, so that equal sums are equal
_MOST_WORK = 400_000  # candidates looked at by one search, about a fifth of a second


class Candidate(msgspec.Struct, frozen=True):
    """A model that may go."""

    name: str
    frees: Mapping[str, int]  # bytes by device that its going gives back
    cost: float  # of its absence, finite and not negative


def cost_of_absence(rate: float, load_seconds: float) -> float:
    """Seconds of loading to be expected per second of absence: it is wanted `rate` times a second, and each time that it is
    absent costs a load.

    The bytes are not in it, as they are in greedy-dual-size-frequency: that divides by them because it evicts one at a
    time and has to guess what its victims add up to. `choose_victims` adds up the bytes themselves.
    """
    return rate * load_seconds


def choose_victims(candidates: Sequence[Candidate], shortage: Mapping[str, int]) -> list[Candidate] | None:
    """The set of least total cost that frees at least `shortage` bytes on every device, in order of name; None where all
    together do not. Of sets that cost the same: the one of fewer victims, then of fewer bytes, then the first by name.

    A greedy cover, then branch and bound from there. The search is exact to its end, which it reaches in practice with
    twenty candidates and more; where it would take too long, the best set found until then stands.
    """
    short = {device: count for device, count in shortage.items() if count > 0}
    if any(sum(c.frees.get(device, 0) for c in candidates) < count for device, count in short.items()):
        return None
    return sorted(_Search(candidates, short).run(), key=lambda victim: victim.name)


_Key = tuple[int, int, int, tuple[str, ...]]  # cost in _UNIT, victims, bytes, names: less is better


class _Search:
    """Depth first, each candidate in turn taken and then left, most freed for its cost first."""

    def __init__(self, candidates: Iterable[Candidate], short: Mapping[str, int]) -> None:
        useful = [c for c in candidates if any(c.frees.get(device, 0) > 0 for device in short)]
        self._order = sorted(useful, key=lambda c: (c.cost / _share(c, short), c.name))
        self._costs = [round(c.cost / _UNIT) for c in self._order]
        self._bytes = [sum(c.frees.values()) for c in self._order]
        self._frees = {device: [c.frees.get(device, 0) for c in self._order] for device in short}
        self._cheapest = {device: self._by_worth(freed, self._costs) for device, freed in self._frees.items()}
        self._largest = {device: self._by_worth(freed, [1] * len(freed)) for device, freed in self._frees.items()}
        self._short = short
        self._steps = _MOST_WORK // max(1, len(useful))

    def run(self) -> list[Candidate]:
        self._best = self._greedy()
        self._best_key = self._key(self._best)
        self._improve()
        return [self._order[i] for i in self._best]

    def _greedy(self) -> list[int]:
        """Enough of the order, less what then turns out superfluous, the dearest first."""
        left, chosen = dict(self._short), list[int]()
        for i in range(len(self._order)):
            if all(count <= 0 for count in left.values()):
                break
            chosen.append(i)
            left = self._without(left, i)
        for i in sorted(chosen, key=lambda i: self._costs[i], reverse=True):
            if all(count + self._frees[device][i] <= 0 for device, count in left.items()):
                chosen.remove(i)
                left = {device: count + self._frees[device][i] for device, count in left.items()}
        return chosen

    def _improve(self) -> None:
        """Betters the best set until none can be better, or for as many steps as there are."""
        branches: list[tuple[int, list[int], Mapping[str, int]]] = [(0, [], self._short)]
        for _ in range(self._steps):
            if not branches:
                return
            i, chosen, left = branches.pop()
            if all(count <= 0 for count in left.values()):
                if (key := self._key(chosen)) < self._best_key:
                    self._best, self._best_key = chosen, key
            elif self._may_improve(i, chosen, left):
                branches.append((i + 1, chosen, left))
                branches.append((i + 1, [*chosen, i], self._without(left, i)))

    def _may_improve(self, i: int, chosen: list[int], left: Mapping[str, int]) -> bool:
        """Whether a bound from below on what extends `chosen` is below the best key."""
        cost, count, bytes_freed, _ = self._key(chosen)
        more_cost = more_victims = more_bytes = 0
        for device, short in left.items():
            if short > 0:
                freed = self._frees[device]
                least = _fractional_cover(i, short, freed, self._costs, self._cheapest[device])
                if least is None:
                    return False
                more_cost = max(more_cost, least)
                fewest = _fractional_cover(i, short, freed, [1] * len(freed), self._largest[device])
                more_victims = max(more_victims, fewest or 0)
                more_bytes += short
        return (cost + more_cost, count + more_victims, bytes_freed + more_bytes) <= self._best_key[:3]

    def _without(self, left: Mapping[str, int], i: int) -> dict[str, int]:
        return {device: count - self._frees[device][i] for device, count in left.items()}

    def _key(self, chosen: Sequence[int]) -> _Key:
        names = tuple(sorted(self._order[i].name for i in chosen))
        return sum(self._costs[i] for i in chosen), len(chosen), sum(self._bytes[i] for i in chosen), names

    def _by_worth(self, freed: Sequence[int], costs: Sequence[int]) -> list[int]:
        """Those that free anything, the cheapest per byte first."""
        return sorted((i for i in range(len(freed)) if freed[i] > 0), key=lambda i: costs[i] / freed[i])


def _share(candidate: Candidate, short: Mapping[str, int]) -> float:
    """How much of the shortage it ends, summed over devices."""
    return sum(min(candidate.frees.get(device, 0) / count, 1.0) for device, count in short.items())


def _fractional_cover(
    start: int, short: int, freed: Sequence[int], costs: Sequence[int], order: Sequence[int]
) -> int | None:
    """The least cost of `short` bytes from candidates `start` and later if parts of one could go, rounded up; None where
    there are not so many. `order`: the cheapest per byte first."""
    cost = 0
    for i in order:
        if i >= start:
            if freed[i] >= short:
                return cost - (-costs[i] * short // freed[i])
            short -= freed[i]
            cost += costs[i]
    return None
