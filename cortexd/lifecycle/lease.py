"""A lease: the promise not to unload a model, held by one request."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

import msgspec

from cortexd.engines.protocol import Engine, EngineFacts
from cortexd.errors import CortexdError


class LoadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a waiting client can be told."""

    phase: str
    percent: int
    eta_s: float | None
    queue: int  # loads that come before this one


class Lease:
    """Waiting, then granted or refused, then released. Released from any of them, at once and once."""

    def __init__(self, owner: str, now: Callable[[], float], progress: Callable[[], LoadStatus]) -> None:
        self.owner = owner
        self.tier: Literal["ready", "cold"] = "ready"
        self.queue_ms = 0.0
        self.load_ms = 0.0
        self._now = now
        self._asked = now()
        self._progress = progress
        self._outcome: asyncio.Future[tuple[Engine, EngineFacts]] = asyncio.get_running_loop().create_future()
        self._on_release: Callable[[Lease], None] | None = None

    @property
    def engine(self) -> Engine:
        return self._outcome.result()[0]

    @property
    def facts(self) -> EngineFacts:
        return self._outcome.result()[1]

    async def granted(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - a time-out is an answer here
        """True once the model is ready and leased, False after `timeout` seconds; raises what made the load fail."""
        if not self._outcome.done():
            await asyncio.wait([self._outcome], timeout=timeout)
        if self._outcome.done():
            self._outcome.result()
            return True
        return False

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

    def grant(self, engine: Engine, facts: EngineFacts, loading_since: float | None = None) -> None:
        if loading_since is not None:
            now = self._now()
            self.tier = "cold"
            self.queue_ms = max(0.0, loading_since - self._asked) * 1000
            self.load_ms = (now - max(loading_since, self._asked)) * 1000
        self._outcome.set_result((engine, facts))

    def refuse(self, error: CortexdError) -> None:
        self._on_release = None
        self._outcome.set_exception(error)
        self._outcome.exception()  # a client that has left does not come to ask
