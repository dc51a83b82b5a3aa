"""A spec, its state, and its engine while it has one."""

import asyncio
from collections.abc import Callable
from time import time

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import Engine, EngineFacts, LoadProgress
from cortexd.errors import CortexdError, LoadFailed
from cortexd.events import Event, ModelMoved
from cortexd.lifecycle.lease import Lease, LoadStatus
from cortexd.lifecycle.states import LEGAL, State

_FIRST_BACK_OFF = 1.0  # seconds
_LONGEST_BACK_OFF = 300.0
_TRUSTED_FRACTION = 0.05  # of a load, before which its speed says nothing


class Failure(msgspec.Struct, frozen=True):
    """Why a model is not tried again before `until` (loop time)."""

    error: CortexdError
    until: float


class ManagedModel:
    """Its only writer is the supervisor; every change of `state` goes through `move_to`, which publishes it."""

    def __init__(self, spec: ModelSpec, publish: Callable[[Event], None], now: Callable[[], float]) -> None:
        self.spec = spec
        self.next_spec: ModelSpec | None = None  # what the next incarnation will be, where that differs
        self.state = State.COLD
        self.incarnation = 0
        self.engine: Engine | None = None
        self.facts: EngineFacts | None = None
        self.leases: set[Lease] = set()
        self.waiters: dict[Lease, None] = {}  # in order of arrival
        self.failure: Failure | None = None
        self.failures = 0  # in a row
        self.last_used = now()
        self.ready_since = 0.0
        self.loading_since = 0.0
        self.changed = asyncio.Event()  # somebody has left, or the state was changed from outside its own task
        self._progress = LoadProgress("queued", 0.0)
        self._publish = publish
        self._now = now

    def move_to(self, state: State, reason: str) -> None:
        """The one way to another state. Synchronous: nothing comes between a check and the change it allows."""
        assert state in LEGAL[self.state], f"{self.spec.name}: {self.state} cannot become {state}"
        before, self.state = self.state, state
        self._publish(
            ModelMoved(
                at=time(),
                model=self.spec.name,
                incarnation=self.incarnation,
                before=before,
                after=state,
                reason=reason,
            )
        )

    def begin_load(self) -> None:
        self.incarnation += 1
        self.loading_since = self._now()
        self._progress = LoadProgress("starting", 0.0)
        self.move_to(State.LOADING, "its turn has come")

    def note_progress(self, progress: LoadProgress) -> None:
        self._progress = progress

    def progress(self, queue: int) -> LoadStatus:
        fraction = self._progress.fraction
        eta: float | None = None
        if self.state is State.LOADING and fraction > _TRUSTED_FRACTION:
            eta = round((self._now() - self.loading_since) * (1 - fraction) / fraction, 1)
        done = {State.LOADING: fraction, State.WARMING: 1.0, State.READY: 1.0}.get(self.state, 0.0)
        return LoadStatus(phase=self.state.value, percent=round(100 * done), eta_s=eta, queue=queue)

    def become_ready(self, engine: Engine, facts: EngineFacts) -> None:
        """Ready and leased to all who waited, in one step: nothing can unload it in between."""
        self.engine, self.facts = engine, facts
        self.failure, self.ready_since = None, self._now()
        self.move_to(State.READY, "the probe made a token")
        self.last_used = self._now()
        waiters, self.waiters = self.waiters, {}
        for lease in waiters:
            self.leases.add(lease)
            lease.held_by(self.drop_lease)
            lease.grant(engine, facts, self.loading_since)

    def lease_now(self, lease: Lease) -> None:
        assert self.state is State.READY
        assert self.engine is not None
        assert self.facts is not None
        self.leases.add(lease)
        lease.held_by(self.drop_lease)
        lease.grant(self.engine, self.facts)

    def drop_lease(self, lease: Lease) -> None:
        self.leases.discard(lease)
        self.last_used = self._now()
        self.changed.set()

    def wait(self, lease: Lease) -> None:
        self.waiters[lease] = None
        lease.held_by(self._leave)

    def refuse_waiters(self, error: Callable[[], CortexdError]) -> None:
        waiters, self.waiters = self.waiters, {}
        for lease in waiters:
            lease.refuse(error())

    def fail(self, error: CortexdError, *, at_once_again: bool = False) -> None:
        """Into `failed`, for a time that doubles with each failure in a row; all who wait are told."""
        self.failures += 1
        delay = 0.0 if at_once_again else min(_FIRST_BACK_OFF * 2 ** (self.failures - 1), _LONGEST_BACK_OFF)
        self.failure = Failure(error, self._now() + delay)
        self.engine = self.facts = None
        self.move_to(State.FAILED, error.message)
        self.refuse_waiters(self.refusal)

    def refusal(self) -> CortexdError:
        """The error for whoever asks while the model is failed."""
        assert self.failure is not None
        error = self.failure.error
        left = max(0.0, self.failure.until - self._now())
        kind = type(error) if isinstance(error, LoadFailed) else LoadFailed
        return kind(error.message, retry_after=left or None)

    def _leave(self, lease: Lease) -> None:
        self.waiters.pop(lease, None)
        self.changed.set()
