"""A lease: the promise not to unload a model, held by one request."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

import msgspec

from cortexd.engines.protocol import Engine, EngineFacts
from cortexd.errors import CortexdError
from cortexd.lifecycle.policy import Priority

Tier = Literal["ready", "parked", "cold"]


class LoadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a waiting client can be told."""

    phase: str
    percent: int
    eta_s: float | None
    queue: int  # loads that come before this one


class Lease:
    """Waiting, then granted or refused, then released. Released from any of them, at once and once."""

    def __init__(
        self,
        owner: str,
        asked: float,
        progress: Callable[[], LoadStatus],
        priority: Priority = Priority.REQUEST,
        keep_alive: float | None = None,
    ) -> None:
        self.owner = owner
        self.asked = asked
        self.priority = priority
        self.keep_alive = keep_alive  # seconds from the end of this use; None: as the model is configured
        self.incarnation = 0  # of the model, that it was granted
        self.tier: Tier = "ready"
        self.queue_ms = 0.0
        self.load_ms = 0.0
        self.evicted: tuple[str, ...] = ()  # models that had to go for this one
        self._progress = progress
        self._outcome: tuple[Engine, EngineFacts] | CortexdError | None = None
        self._settled: asyncio.Event | None = None
        self._on_release: Callable[[Lease], None] | None = None

    @property
    def engine(self) -> Engine:
        return self._granted()[0]

    @property
    def facts(self) -> EngineFacts:
        return self._granted()[1]

    @property
    def settled(self) -> bool:
        """Whether it was granted or refused."""
        return self._outcome is not None

    async def granted(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - a time-out is an answer here
        """True once the model is ready and leased, False after `timeout` seconds; raises what made the load fail."""
        if self._outcome is None:
            self._settled = self._settled or asyncio.Event()
            try:
                async with asyncio.timeout(timeout):
                    await self._settled.wait()
            except TimeoutError:
                return False
        self._granted()
        return True

    def progress(self) -> LoadStatus:
        return self._progress()

    def release(self) -> None:
        """Sync and idempotent, so that no way out of a request can be interrupted before it."""
        on_release, self._on_release = self._on_release, None
        if on_release is not None:
            on_release(self)

    async def __aenter__(self) -> Self:
        try:
            await self.granted()
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # What follows is for the supervisor alone.

    def held_by(self, on_release: Callable[["Lease"], None]) -> None:
        """From now on a release is told to `on_release`."""
        self._on_release = on_release

    def grant(self, engine: Engine, facts: EngineFacts) -> None:
        self._settle((engine, facts))

    def regrant(self, engine: Engine, facts: EngineFacts) -> None:
        """Its answers go on in another engine."""
        self._outcome = (engine, facts)

    def refuse(self, error: CortexdError) -> None:
        self._on_release = None
        self._settle(error)

    def _settle(self, outcome: tuple[Engine, EngineFacts] | CortexdError) -> None:
        assert self._outcome is None, "a lease is settled once"
        self._outcome = outcome
        if self._settled is not None:
            self._settled.set()

    def _granted(self) -> tuple[Engine, EngineFacts]:
        assert self._outcome is not None, "whoever uses a lease has waited for it"
        if isinstance(self._outcome, CortexdError):
            raise self._outcome
        return self._outcome
