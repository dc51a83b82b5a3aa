"""The supervisor's models as others see them: memory by device, who may go, who waits for whom."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from cortexd.events import Arithmetic
from cortexd.lifecycle.admission import Holding, Never, Wish, never_fits
from cortexd.lifecycle.deadlines import keep_alive, pinned, protected_until
from cortexd.lifecycle.eviction import cost_of_absence
from cortexd.lifecycle.history import History
from cortexd.lifecycle.lease import LoadStatus
from cortexd.lifecycle.managed_model import ManagedModel
from cortexd.lifecycle.planning import Queued, World, in_order
from cortexd.lifecycle.policy import Policy, Priority
from cortexd.lifecycle.ranking import Ranking, Wanted
from cortexd.lifecycle.states import GOING, HELD, LOADS, State

HOST = "cpu"  # the device whose memory holds what is parked
MAY_STAY = 0.5  # of what a model holds on its devices; where more does when it is parked, it has not given it back


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be seen of a model from outside."""

    name: str
    names: list[str]  # all that this worker goes by
    state: str
    incarnation: int
    leases: int
    waiting: int
    suspended: int
    engine: str
    loaded_bytes: int
    memory: dict[str, int]  # bytes by device, measured where that is known
    expected: dict[str, int]  # bytes by device that a load would need
    context: int
    percent: int
    pinned: bool
    keep_alive_left_s: float | None  # None: not loaded, in use, or kept for ever
    load_s: float  # that a load takes, measured or guessed
    pids: list[int]  # of its processes
    error: str | None
    retry_in_s: float | None


class _ParkingRoom(NamedTuple):
    """Bytes of the host for what is parked: that are free, and that the policy leaves."""

    free: float
    tier: int


class View:
    """Derived from the models alone, so that nothing here can disagree with them."""

    def __init__(
        self,
        models: Mapping[str, ManagedModel],
        policy: Policy,
        history: History,
        ceilings: Mapping[str, int],
        now: Callable[[], float],
    ) -> None:
        self.ceilings = dict(ceilings)  # bytes by device; others hold it, and it is changed in place
        self.foreign: dict[str, int] = {}  # what others use of a ceiling, where they do
        self.ranking = Ranking(self.ceilings, history.rate)
        self._models = models
        self._policy = policy
        self._history = history
        self.now = now

    def memory(self) -> dict[str, Arithmetic]:
        """The ledger, by device. It has no entries of its own: it is the sum over the models."""
        resident, reserved, debt = (dict.fromkeys(self.ceilings, 0) for _ in range(3))
        for model in self._models.values():
            if not (held := model.holds()):
                continue
            kind = reserved if model.state in LOADS else resident
            if model.state is State.UNLOADING or not model.settled:
                kind = debt
            for device, count in held.items():
                if device in kind:
                    kind[device] += count
        return {
            device: Arithmetic(
                ceiling=ceiling,
                resident=resident[device],
                reserved=reserved[device],
                debt=debt[device],
                foreign=self.foreign.get(device, 0),
            )
            for device, ceiling in self.ceilings.items()
        }

    def ours(self) -> dict[str, int]:
        """Bytes by device that our models hold or are about to."""
        return {device: m.resident + m.reserved + m.debt for device, m in self.memory().items()}

    def mapped(self) -> int:
        """Bytes of ours on the host that are pages of files, which the kernel takes back when it has to."""
        return sum(model.mapped for model in self._models.values())

    def world(self) -> World:
        queued = [self._queued(model) for model in self._models.values() if self.waits_for_load(model)]
        memory = self.memory()
        return World(
            memory=memory,
            coming=self.coming(),
            holdings=self.holdings(memory),
            queue=in_order(queued, self._policy.aging),
            loads=sum(m.state in LOADS and any(m.reserved.values()) for m in self._models.values()),
            parallel_loads=self._policy.parallel_loads,
        )

    def holdings(self, memory: Mapping[str, Arithmetic] | None = None) -> list[Holding]:
        """Models that hold memory and are not on their way out. `memory` is the ledger, where it is known already."""
        found = [
            model
            for model in self._models.values()
            if model.state not in GOING and model.settled and any(model.holds().values())
        ]
        if not found:
            return []
        expected = [self._cost(model, self._history.load_seconds(model.spec)) for model in found]
        ranked = self.ranking.costs({model.spec.name: cost for model, cost in zip(found, expected, strict=True)})
        room = self._parking_room(memory or self.memory())
        return [
            self._holding(model, cost, ranked[model.spec.name], room)
            for model, cost in zip(found, expected, strict=True)
        ]

    def note_use(self, model: ManagedModel) -> None:
        """A client has used it: what it is worth to keep is judged by that."""
        name, load_seconds = model.spec.name, self._history.load_seconds(model.spec)
        holds = model.holds() or self._history.expected(model.spec)
        self.ranking.note(Wanted(name=name, holds=holds, load_seconds=load_seconds))
        self._history.note_use(name)

    def never_fits(self, model: ManagedModel) -> Never | None:
        """Why no waiting would give this model the memory it needs; None where it can be had."""
        memory = self.memory()
        return never_fits(self.wish(model), memory, self.holdings(memory))

    def waits_for_load(self, model: ManagedModel) -> bool:
        if model.state is State.QUEUED:
            return model.wanted
        return model.state is State.PARKED and model.settled and model.wanted

    def may_park(self, model: ManagedModel) -> bool:
        """Whether its engine can, its devices get most of their memory back, and the host has room for what is then left of it."""
        return self._parks_into(self._parking_room(self.memory()), model)

    def when_parked(self, model: ManagedModel) -> dict[str, int]:
        """Bytes by device that it holds while it is parked."""
        return {HOST: model.facts.parked_bytes} if model.facts is not None else {}

    def progress(self, model: ManagedModel) -> LoadStatus:
        parked = model.state is State.PARKED or model.resumed
        usual = (self._history.resume_seconds if parked else self._history.load_seconds)(model.spec)
        return model.progress(self._loads_before(model), usual)

    def status(self, model: ManagedModel, name: str = "") -> ModelStatus:
        """Of the model that is asked for by this name; it may have several."""
        left: float | None = None
        kept = keep_alive(model, self._policy)
        if model.state is State.READY and not model.leases and kept < math.inf:
            left = max(0.0, model.last_used + kept - self.now())
        failed = model.failure if model.state is State.FAILED else None
        return ModelStatus(
            name=name or model.spec.name,
            names=list(model.names),
            state=model.state.value,
            incarnation=model.incarnation,
            leases=len(model.leases),
            waiting=len(model.waiters),
            suspended=len(model.suspended),
            engine=model.facts.description if model.facts else model.spec.engine,
            loaded_bytes=model.facts.loaded_bytes if model.facts else 0,
            memory=dict(model.holds()),
            expected=self._history.expected(model.spec),
            context=model.facts.context if model.facts else model.spec.limits.prompt_tokens,
            percent=model.progress(0, 0.0).percent,
            pinned=pinned(model),
            keep_alive_left_s=left,
            load_s=round(self._history.load_seconds(model.spec), 3),
            pids=model.run.pids() if model.run is not None else [],
            error=model.failure.error.message if model.failure else None,
            retry_in_s=round(max(0.0, failed.until - self.now()), 1) if failed else None,
        )

    def wait_graph(self) -> list[str]:
        """Who waits for what, one sentence each: for the log, when something seems to hang."""
        lines: list[str] = []
        for model in self._models.values():
            owners = ", ".join(lease.owner for lease in model.waiters)
            if owners:
                lines.append(f"{owners} wait for {model.spec.name}, which is {model.state}")
            users = ", ".join(lease.owner for lease in model.leases)
            if users:
                lines.append(f"{model.spec.name} is {model.state} and held by {users}")
        return lines

    def next_change(self) -> float:
        """When time alone may change a verdict: somebody's patience ends, or the protection of a model that is in the way."""
        now = self.now()
        times = [math.inf]
        for model in self._models.values():
            if self.waits_for_load(model):
                times.append(model.wanted_since + self._policy.max_wait)
            elif model.state is State.READY:
                times.append(self._protected_until(model))
        return min(time for time in times if time > now)

    def quiet(self) -> bool:
        """No model has a worker."""
        return not any(model.state in HELD for model in self._models.values())

    def bytes_of(self, model: ManagedModel) -> dict[str, int]:
        """Bytes by device that it holds in use, or would."""
        return model.holds() if model.state in (State.READY, State.DRAINING) else self._history.expected(model.spec)

    def wish(self, model: ManagedModel) -> Wish:
        """What its load needs beyond what it holds already."""
        expected, held = self._history.expected(model.spec), model.holds()
        may_evict = self._priority(model) <= Priority.ADMIN  # what nobody waits for hurts nobody
        return Wish(
            key=model.key,
            name=model.spec.name,
            needed={device: max(0, count - held.get(device, 0)) for device, count in expected.items()},
            overdue=model.wanted and may_evict and self.now() >= model.wanted_since + self._policy.max_wait,
            may_evict=may_evict,
        )

    def _queued(self, model: ManagedModel) -> Queued:
        return Queued(wish=self.wish(model), priority=self._priority(model), since=model.wanted_since)

    def _priority(self, model: ManagedModel) -> Priority:
        return min((lease.priority for lease in model.waiters), default=Priority.REQUEST)

    def _cost(self, model: ManagedModel, seconds: float) -> float:
        return cost_of_absence(self._history.rate(model.spec.name), seconds)

    def _holding(self, model: ManagedModel, expected: float, cost: float, room: _ParkingRoom) -> Holding:
        """`expected` is what its absence would cost by its habits alone, `cost` what the ranking makes of that."""
        why_not, held, stays = self._why_not(model), model.holds(), self.when_parked(model)
        parks = model.state is State.READY and self._parks_into(room, model)
        resume = self._cost(model, self._history.resume_seconds(model.spec))
        unprotected = model.state is State.PARKED or (
            model.state is State.READY and self._protected_until(model) <= self.now()
        )
        return Holding(
            key=model.key,
            name=model.spec.name,
            frees=held,
            cost=cost,
            parking_frees={d: count - stays.get(d, 0) for d, count in held.items()} if parks else None,
            parking_cost=cost * (resume / expected if expected else 1.0),
            why_not=why_not,
            closable=bool(why_not) and unprotected and not pinned(model),
            pinned=pinned(model),
        )

    def _why_not(self, model: ManagedModel) -> str:
        """Why this model may not be evicted now; empty where it may."""
        if model.state in LOADS:
            return "being loaded"
        if pinned(model):
            return "pinned"
        if model.leases:
            return f"in use by {len(model.leases)}"
        if model.state is State.PARKED:
            return "wanted" if model.wanted else ""
        left = self._protected_until(model) - self.now()
        return f"protected for {left:.1f} s after its load" if left > 0 else ""

    def _protected_until(self, model: ManagedModel) -> float:
        seconds = self._history.resume_seconds if model.resumed else self._history.load_seconds
        return protected_until(model, self._policy, seconds(model.spec))

    def _parks_into(self, room: _ParkingRoom, model: ManagedModel) -> bool:
        if model.facts is None or not model.facts.parks:
            return False
        stays, held = self.when_parked(model), model.holds()
        if any(stays.get(device, 0) > MAY_STAY * held[device] for device in devices_of(held)):
            return False
        parked = stays.get(HOST, 0)
        return parked - held.get(HOST, 0) <= room.free and parked <= room.tier

    def _parking_room(self, memory: Mapping[str, Arithmetic]) -> _ParkingRoom:
        parked = (model for model in self._models.values() if model.state is State.PARKED)
        used = sum(self.when_parked(model).get(HOST, 0) for model in parked)
        return _ParkingRoom(memory[HOST].free if HOST in memory else math.inf, self._policy.host_tier - used)

    def coming(self) -> dict[str, int]:
        """Bytes by device that are sure to come back without anything more being done."""
        coming = dict.fromkeys(self.ceilings, 0)
        for model in self._models.values():
            stays: dict[str, int] = {}
            if model.state is State.PARKED and not model.settled:
                stays = self.when_parked(model)
            elif model.state not in GOING:
                continue
            for device, count in model.holds().items():
                if device in coming:
                    coming[device] += count - stays.get(device, 0)
        return coming

    def _loads_before(self, model: ManagedModel) -> int:
        if not self.waits_for_load(model):
            return 0
        ahead = [queued.wish.key for queued in self.world().queue]
        loading = sum(other.state in LOADS for other in self._models.values())
        return loading + ahead.index(model.key)


def devices_of(held: Mapping[str, int]) -> list[str]:
    """The devices that parking is to make free: the host only where there is no other."""
    return [device for device, count in held.items() if count and device != HOST] or [
        device for device, count in held.items() if count
    ]
