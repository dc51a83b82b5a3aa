"""Which of two rankings chooses the victims: by what a model's absence is expected to cost, or by when it was last used.

Forecasts go wrong: a conversation moves on to other models, and the habits of yesterday keep the wrong ones. So two daemons
are imagined that see the same requests, each of which evicts by one ranking alone; the one that has spent fewer seconds on
loading of late leads. Without evidence it is the last use, which no forecast can mislead. What this brings is measured in
`cortexd.simulation.replay`.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from cortexd.lifecycle.eviction import Candidate, choose_victims, cost_of_absence

_KEPT = 0.98  # of what was spent, at each load that either would have had
_CONVINCING = 0.95  # of what the last use costs: less than that, and the forecast takes the lead

Costs = Mapping[str, float]  # by model, of its absence


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is asked for."""

    name: str
    holds: Mapping[str, int]  # bytes by device while it is loaded
    load_seconds: float


class Ranking:
    """Told of every request, asked before every eviction."""

    def __init__(self, ceilings: Mapping[str, int], rate: Callable[[str], float]) -> None:
        """`ceilings` are bytes by device, read anew each time; `rate` are the uses per second that are to be expected of a
        model from now on, 0 where nothing is known of it."""
        self._rate = rate
        self._load_seconds: dict[str, float] = {}  # of the last request; the last used at the end
        self._by_use = _Imagined(ceilings, self._by_last_use)
        self._by_cost = _Imagined(ceilings, self._expected)
        self._cost_leads = False

    @property
    def leader(self) -> str:
        """In plain words, for whoever asks why."""
        return "expected cost" if self._cost_leads else "last use"

    def note(self, wanted: Wanted) -> None:
        """There was a request for it; to be told before that changes what is expected of it."""
        imagined = self._by_use, self._by_cost
        costs = [each.ask(wanted) for each in imagined]
        if any(costs):
            for each, cost in zip(imagined, costs, strict=True):
                each.spent = _KEPT * each.spent + cost
            enough = self._by_use.spent * (1.0 if self._cost_leads else _CONVINCING)
            self._cost_leads = self._by_cost.spent < enough
        self._load_seconds.pop(wanted.name, None)
        self._load_seconds[wanted.name] = wanted.load_seconds

    def costs(self, expected: Costs) -> Costs:
        """What `choose_victims` is to be told of the models of which `cost_of_absence` says this."""
        return expected if self._cost_leads else self._by_last_use(expected)

    def _by_last_use(self, names: Iterable[str]) -> Costs:
        """Each costs more than all that were used before it together: the last used go last, and nobody goes in vain.
        What was never used counts as used before all others."""
        asked = set(names)
        never = sorted(asked - self._load_seconds.keys())
        used = [name for name in self._load_seconds if name in asked]
        return {name: 2.0**place for place, name in enumerate([*never, *used])}

    def _expected(self, names: Iterable[str]) -> Costs:
        return {name: cost_of_absence(self._rate(name), self._load_seconds[name]) for name in names}


class _Imagined:
    """A daemon in which nothing takes time and nothing but a load evicts."""

    def __init__(self, ceilings: Mapping[str, int], costs: Callable[[Iterable[str]], Costs]) -> None:
        self.spent = 0.0  # seconds of loading, slowly forgotten
        self._ceilings = ceilings
        self._costs = costs
        self._held: dict[str, Mapping[str, int]] = {}

    def ask(self, wanted: Wanted) -> float:
        """Seconds of loading that this request costs. What could never be loaded costs nobody anything."""
        if wanted.name in self._held:
            self._held[wanted.name] = wanted.holds  # more may be known of it by now
            return 0.0
        shortage = {
            device: count + sum(held.get(device, 0) for held in self._held.values()) - self._ceilings[device]
            for device, count in wanted.holds.items()
            if device in self._ceilings
        }
        if any(count > 0 for count in shortage.values()):
            costs = self._costs(self._held)
            victims = choose_victims([Candidate(n, held, costs[n]) for n, held in self._held.items()], shortage)
            if victims is None:
                return 0.0
            for victim in victims:
                del self._held[victim.name]
        self._held[wanted.name] = wanted.holds
        return wanted.load_seconds
