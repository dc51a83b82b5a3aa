"""The composition root: every service is built here, once, and they meet nowhere else."""

import asyncio
from types import TracebackType
from typing import Self

import msgspec

from cortexd.catalogue.catalogue import Catalogue
from cortexd.config import Settings
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.registry import EngineRegistry
from cortexd.events import EventBus
from cortexd.lifecycle.supervisor import Policy, Supervisor


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be answered, and what was looked at."""

    ready: bool
    checks: dict[str, str]


class Host:
    """Implements `cortexd.engines.protocol.EngineHost`."""

    def __init__(self, settings: Settings) -> None:
        self.cores = Cores(settings.engine.thread_count)
        self.prefill_budget = settings.engine.prefill_budget
        self.fork_server = ForkServer()


class Daemon:
    """Everything but HTTP. Entering starts it; leaving ends every engine within the drain deadline."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.events = EventBus()
        self.catalogue = Catalogue(settings)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._host = Host(settings)
        lifecycle = settings.lifecycle
        policy = Policy(
            keep_alive=lifecycle.keep_alive,
            parallel_loads=lifecycle.parallel_loads,
            queue_limit=lifecycle.queue_limit,
            load_stall=lifecycle.load_stall,
            ping_interval=lifecycle.ping_interval,
            ping_deadline=lifecycle.ping_deadline,
        )
        registry = EngineRegistry(self._host)
        self.supervisor = Supervisor(registry.make, policy, self.events.publish, self._bug)
        self._refreshing: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self._warming = asyncio.create_task(self._warm_up(), name="warm the fork server")
        await self.refresh_catalogue()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def refresh_catalogue(self) -> None:
        """Look into the models directories, off the loop; several callers at once share one look."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="refresh the catalogue")
        await asyncio.shield(self._refreshing)

    def readiness(self) -> Readiness:
        checks = {"supervisor": "closing" if self._closing else "ok", "tasks": "failed" if self.failed.done() else "ok"}
        return Readiness(all(check == "ok" for check in checks.values()), checks)

    async def close(self) -> None:
        """End what runs within `server.drain_s` seconds; then nothing of this daemon is left."""
        self._closing = True
        self._warming.cancel()
        await self.supervisor.close(self.settings.server.drain_s)
        await self._host.fork_server.close()

    async def _warm_up(self) -> None:
        """Import torch before the first request asks for it; a failure is told to that request."""
        try:
            await self._host.fork_server.start()
        except OSError:
            pass

    async def _refresh(self) -> None:
        try:
            await asyncio.to_thread(self.catalogue.refresh)
        finally:
            self._refreshing = None

    def _bug(self, error: BaseException) -> None:
        """A part that must never fail has failed: better a whole daemon restarted than half of one running on."""
        if not self.failed.done():
            self.failed.set_exception(error)
