"""A spec, its state, and its engine while it has one."""

from collections.abc import Callable
from time import time
from typing import Protocol

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import Engine, EngineFacts, Suspension
from cortexd.errors import CortexdError, LoadFailed
from cortexd.events import Event, ModelMoved
from cortexd.lifecycle.lease import Lease, LoadStatus
from cortexd.lifecycle.states import HELD, LEGAL, LOADS, State

_FIRST_BACK_OFF = 1.0  # seconds
_LONGEST_BACK_OFF = 300.0
_TRUSTED_FRACTION = 0.05  # of a load, before which its speed says nothing


class Run(Protocol):
    """One life of one engine. Each call returns at once; what comes of it is told to the supervisor."""

    @property
    def engine(self) -> Engine: ...

    def pids(self) -> list[int]:
        """Of its processes, while there are any."""
        ...

    def start(self) -> None: ...

    def park(self) -> None: ...

    def resume(self) -> None: ...

    def suspend(self) -> None: ...

    def stop(self, grace: float) -> None:
        """End it, after `grace` seconds by force; `Stopped` is told. May be repeated, with less grace."""
        ...

    def kill(self, reason: str, out_of_memory: bool = False) -> None:
        """End it by force because of `reason`, which is told as if it had ended by itself."""
        ...


class Failure(msgspec.Struct, frozen=True):
    """Why a model is not tried again before `until`."""

    error: CortexdError
    until: float


class Drain(msgspec.Struct, frozen=True):
    """Why a model shall go once it is left."""

    reason: str
    needed_by: str = ""  # key of the model that waits for its memory; where that gives up, this one may stay
    suspend_at: float | None = None  # when generations that still run are suspended
    linger: float = 0.0  # seconds that it stays though nobody holds it: its end is expected, with a reason


class ManagedModel:
    """Its only writer is the supervisor; every change of `state` goes through `move_to`, which publishes it."""

    def __init__(self, spec: ModelSpec, publish: Callable[[Event], None], now: Callable[[], float]) -> None:
        self.key = spec.hash
        self.spec = spec
        self.names: dict[str, ModelSpec] = {spec.name: spec}  # one worker may go by several
        self.state = State.COLD
        self.incarnation = 0
        self.since = now()  # when it came into its state
        self.run: Run | None = None
        self.facts: EngineFacts | None = None
        self.leases: set[Lease] = set()
        self.suspended: set[Lease] = set()  # their generations are saved in `suspension`
        self.suspension: Suspension | None = None
        self.waiters: dict[Lease, None] = {}  # in order of arrival
        self.left_at: float | None = None  # when the last who wanted this load has left
        self.failure: Failure | None = None
        self.failures = 0  # in a row
        self.drain: Drain | None = None
        self.suspending = False  # its engine has been told to save what runs
        self.pinned = False  # by an administrator; a spec can say so too
        self.keep_alive: float | None = None  # as the last request wanted it
        self.last_used = now()
        self.wanted_since = 0.0
        self.load_began = 0.0
        self.progressed_at = 0.0
        self.resumed = False  # the load under way is from `parked`
        self.ready_since = 0.0
        self.told_to_wait = -1.0  # the `wanted_since` whose waiting was told of
        self.evicted: list[str] = []  # for the load under way
        self.reserved: dict[str, int] = {}  # bytes by device, of the load under way
        self.resident: dict[str, int] = {}
        self.peak: dict[str, int] = {}  # bytes by device, most that was measured in this life
        self.mapped = 0  # of what is resident on the host, in pages of files
        self.settled = True  # parked, and its memory seen to be back
        self.kill_at = 0.0  # unloading: when it is killed, again
        self.crashed = 0  # the last incarnation that has ended by itself
        self.served = False  # in this incarnation, at least one request
        self.squeezed = 0  # how often its batch was halved, because it had run out of memory
        self._fraction = 0.0
        self.publish = publish  # to nobody, where it is none of theirs
        self._now = now

    def move_to(self, state: State, reason: str) -> None:
        """The one way to another state. Synchronous: nothing comes between a check and the change it allows."""
        assert state in LEGAL[self.state], f"{self.spec.name}: {self.state} cannot become {state}"
        before, self.state = self.state, state
        self.since = self._now()
        self.publish(
            ModelMoved(
                at=time(),
                model=self.spec.name,
                incarnation=self.incarnation,
                before=before,
                after=state,
                reason=reason,
            )
        )

    @property
    def wanted(self) -> bool:
        """Somebody waits for it; suspended generations do."""
        return bool(self.waiters or self.suspended)

    @property
    def draining_for(self) -> str:
        """Key of the model that it could stay for, if that gave up; empty: it goes in any case."""
        return self.drain.needed_by if self.drain is not None and not self.suspending else ""

    @property
    def fraction(self) -> float:
        """How far its load has come, 0 to 1."""
        return self._fraction

    def spec_to_load(self) -> ModelSpec:
        """Its spec, with a smaller batch where the whole one did not fit into memory."""
        return msgspec.structs.replace(self.spec, max_concurrency=max(1, self.spec.max_concurrency >> self.squeezed))

    def begin_load(self, reserved: dict[str, int], reason: str) -> None:
        self.resumed = self.state is State.PARKED
        self.load_began = self.progressed_at = self._now()
        self.left_at = None
        self._fraction = 0.0
        self.reserved = reserved
        self.settled = True
        if not self.resumed:
            self.incarnation += 1
            self.served = False
        self.move_to(State.LOADING, reason)

    def note_progress(self, fraction: float) -> None:
        self.progressed_at = self._now()
        self._fraction = max(self._fraction, min(1.0, fraction))

    def progress(self, queue: int, usual: float) -> LoadStatus:
        """`usual` is how many seconds such a load takes; its own speed says more once it is under way."""
        eta: float | None = None
        if self.state is State.LOADING:
            spent = self._now() - self.load_began
            of_own = spent * (1 - self._fraction) / self._fraction if self._fraction > _TRUSTED_FRACTION else None
            eta = round(max(0.0, usual - spent) if of_own is None else of_own, 1)
        elif self.state in (State.QUEUED, State.PARKED):
            eta = round(usual, 1)
        done = {State.LOADING: self._fraction, State.WARMING: 1.0, State.READY: 1.0}.get(self.state, 0.0)
        return LoadStatus(phase=self.state.value, percent=round(100 * done), eta_s=eta, queue=queue)

    def become_ready(self) -> None:
        """Ready and leased to all who waited, in one step: nothing can unload it in between."""
        assert self.run is not None
        assert self.facts is not None
        now = self._now()
        self.failure, self.ready_since, self.last_used, self.keep_alive = None, now, now, None
        self.move_to(State.READY, "the probe made a token")
        if self.suspension is not None:
            self.run.engine.adopt(self.suspension)
            self.suspension = None
            for lease in self.suspended:
                lease.regrant(self.run.engine, self.facts)
            self.leases |= self.suspended
            self.suspended.clear()
        waiters, self.waiters = self.waiters, {}
        for lease in waiters:
            lease.tier = "parked" if self.resumed else "cold"
            lease.queue_ms = max(0.0, self.load_began - lease.asked) * 1000
            lease.load_ms = (now - max(self.load_began, lease.asked)) * 1000
            lease.evicted = tuple(self.evicted)
            self._grant(lease)
        self.evicted = []

    def lease_now(self, lease: Lease) -> None:
        assert self.state is State.READY
        self._grant(lease)

    def refuse_waiters(self, error: Callable[[], CortexdError]) -> None:
        waiters, self.waiters = self.waiters, {}
        for lease in waiters:
            lease.refuse(error())

    def lose_suspended(self, error: CortexdError) -> None:
        """The generations that were saved end with this error."""
        self.suspended.clear()
        suspension, self.suspension = self.suspension, None
        if suspension is not None:
            suspension.fail(error)

    def lose_engine(self) -> None:
        """It is gone, and with it all that it held."""
        self.run = self.facts = None
        self.drain, self.suspending = None, False
        self.leases.clear()
        self.reserved, self.resident, self.mapped, self.settled = {}, {}, 0, True

    def fail(self, error: CortexdError, *, at_once_again: bool = False) -> None:
        """Into `failed`, for a time that doubles with each failure in a row; all who wait are told."""
        self.failures += 1
        delay = 0.0 if at_once_again else min(_FIRST_BACK_OFF * 2 ** (self.failures - 1), _LONGEST_BACK_OFF)
        self.failure = Failure(error, self._now() + delay)
        self.lose_engine()
        self.move_to(State.FAILED, error.message)

    def refusal(self) -> CortexdError:
        """The error for whoever asks while the model is failed."""
        assert self.failure is not None
        error = self.failure.error
        left = max(0.0, self.failure.until - self._now())
        kind = type(error) if isinstance(error, LoadFailed) else LoadFailed
        return kind(error.message, retry_after=left or None)

    def holds(self) -> dict[str, int]:
        """Bytes by device that are not to be had for others: reserved, resident or not yet seen to be back."""
        if self.state not in HELD:
            return {}
        return self.reserved if self.state in LOADS else self.resident

    def _grant(self, lease: Lease) -> None:
        assert self.run is not None
        assert self.facts is not None
        self.leases.add(lease)
        lease.incarnation = self.incarnation
        lease.grant(self.run.engine, self.facts)
