"""The composition root: every service is built here, once, and they meet nowhere else."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from cortexd.catalogue.catalogue import Catalogue
from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Paths, Settings
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.protocol import Engine
from cortexd.engines.registry import EngineRegistry
from cortexd.errors import StoreFailed
from cortexd.events import Event, EventBus, ModelMoved
from cortexd.experience import Experience
from cortexd.lifecycle import tidings
from cortexd.lifecycle.administration import Administration
from cortexd.lifecycle.history import History
from cortexd.lifecycle.incarnation import Incarnation
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.liveness import SYNTHETIC, Liveness, NullEngine
from cortexd.lifecycle.managed_model import Run
from cortexd.lifecycle.policy import Policy, Priority
from cortexd.lifecycle.prediction import Predictor
from cortexd.lifecycle.residents import Residents
from cortexd.lifecycle.states import State
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.lifecycle.warm_up import WarmUp
from cortexd.memory.budget import ceilings, parked_budget
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus, installed_gpus
from cortexd.memory.process import Usage, measure
from cortexd.memory.watch import MemoryWatch

_log = logging.getLogger("cortexd")


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be answered, and what was looked at."""

    ready: bool
    checks: dict[str, str]


class EngineRoom:
    """Implements `cortexd.engines.protocol.EngineHost`."""

    def __init__(self, settings: Settings, cache: Path | None) -> None:
        self.cores = Cores(settings.engine.thread_count)
        self.prefill_budget = settings.engine.prefill_budget
        self.cache = cache
        self.fork_server = ForkServer()


class Scales:
    """Implements `cortexd.lifecycle.incarnation.Gauge`."""

    def __init__(self, host: Host, gpus: Gpus) -> None:
        self._host = host
        self._gpus = gpus

    def measure(self, pids: list[int]) -> Usage:
        return measure(pids, self._gpus)

    def oom_kills(self) -> int:
        return self._host.oom_kills()


class Daemon:
    """Everything but HTTP. Entering starts it; leaving ends every engine within the drain deadline."""

    def __init__(self, settings: Settings, paths: Paths | None = None) -> None:
        """Raises StoreFailed where the database cannot be used. Without `paths` nothing is kept beyond this daemon's life."""
        self.settings = settings
        self.events = EventBus()
        self.catalogue = Catalogue(settings)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.experience = Experience(paths.data / "cortexd.db" if paths is not None else None, self._bug)
        self._room = EngineRoom(settings, paths.cache if paths is not None else None)
        self._registry = EngineRegistry(self._room)
        host, gpus = Host(), installed_gpus()
        self._scales = Scales(host, gpus)
        self._policy = _policy(settings, parked_budget(settings.memory, host))
        self.history = History(self._registry.footprint, self.experience.record)
        self.supervisor = Supervisor(
            self._make_run,
            self._policy,
            self.history,
            ceilings(settings.memory, host, gpus),
            asyncio.get_running_loop(),
            self.events.publish,
            self._bug,
        )
        self.administration = Administration(self.supervisor)
        view = self.supervisor.view
        self._watch = MemoryWatch(
            host,
            gpus,
            view.ceilings,
            self.events,
            ours=view.ours,
            mapped=view.mapped,
            on_foreign=self.supervisor.note_foreign,
            on_pressure=self.supervisor.note_pressure,
            sample_s=settings.memory.sample_s,
        )
        self._liveness = Liveness(self.supervisor)
        self._residents = Residents(lambda name, owner: self._lease(name, owner, Priority.PRELOAD))
        self._warm_up: WarmUp | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._services: list[asyncio.Task[Any]] = []
        self._listening = contextlib.ExitStack()
        self._closing = False

    @property
    def journal(self) -> "Experience":
        """What was decided and why: `query`."""
        return self.experience

    @property
    def predictor(self) -> Predictor | None:
        """None where predictions are switched off."""
        return self.experience.predictor if self.settings.lifecycle.predict else None

    async def __aenter__(self) -> Self:
        self._serve(self._warm_fork_server(), "warm the fork server")
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self) -> None:
        await self.refresh_catalogue()
        await self.experience.start(self.history)
        self._listening.enter_context(self.events.subscribed(self._listen))
        self._serve(self._watch.run(), "watch the memory")
        self._serve(self._liveness.run(), "prove that we live")
        self._serve(self._keep_experience(), "keep what was learnt")
        if self.settings.lifecycle.predict:
            self._start_predicting()
        self._bring_residents()

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
        checks = {
            "supervisor": "closing" if self._closing else ("ok" if self._liveness.alive else "hangs"),
            "store": self.experience.health(),
            "tasks": "failed" if self.failed.done() else "ok",
        }
        return Readiness(all(check == "ok" for check in checks.values()), checks)

    async def close(self) -> None:
        """End what runs within `server.drain_s` seconds; then nothing of this daemon is left. Harmless when repeated."""
        if self._closing:
            return
        self._closing = True
        for task in self._services:
            task.cancel()
        await self._residents.close()
        if self._warm_up is not None:
            await self._warm_up.close()
        await self.supervisor.close(self.settings.server.drain_s)
        await asyncio.gather(*self._services, return_exceptions=True)
        self._listening.close()
        await self._room.fork_server.close()
        try:
            await self.experience.close(self.history)
        except StoreFailed as error:
            _log.error("what was learnt last is lost: %s", error.message)

    def _make_run(self, spec: ModelSpec, tell: tidings.Tell) -> Run:
        def make_engine() -> Engine:
            return NullEngine() if spec.source == SYNTHETIC.source else self._registry.make(spec)

        return Incarnation(make_engine, tell, self._policy, self._scales)

    def _lease(self, name: str, owner: str, priority: Priority) -> Lease:
        return self.supervisor.lease(self.catalogue.resolve(name), owner=owner, priority=priority)

    def _serve(self, work: Any, name: str) -> None:
        service = asyncio.create_task(work, name=name)
        service.add_done_callback(self._service_ended)
        self._services.append(service)

    def _service_ended(self, service: "asyncio.Task[Any]") -> None:
        """A service goes on until it is cancelled: nobody else would see that it does not."""
        if not service.cancelled() and (error := service.exception()) is not None:
            self._bug(error)

    def _start_predicting(self) -> None:
        self._warm_up = WarmUp(
            self.experience.predictor, self._cold, lambda name: self._lease(name, "prediction", Priority.PREDICTED)
        )
        self.supervisor.on_asked = self._warm_up.asked
        self._warm_up.start()

    def _cold(self) -> Sequence[str]:
        """Names of models that a request would have to wait for."""
        specs = self.catalogue.specs()
        waits = (State.COLD.value, State.PARKED.value)
        return [spec.name for spec in specs if spec.problem is None and self.supervisor.status(spec).state in waits]

    def _bring_residents(self) -> None:
        """What is to be preloaded, then what was there when the last daemon ended."""
        known = {spec.name: spec for spec in self.catalogue.specs() if spec.problem is None}
        self._residents.bring([name for name, spec in known.items() if spec.preload], "preload")
        if self.settings.lifecycle.restore:
            there = [name for name in self.experience.residents if name in known and not known[name].preload]
            self._residents.bring(there, "restore")

    def _listen(self, event: Event) -> None:
        self.experience.note(event)
        if isinstance(event, ModelMoved) and event.after in (State.READY, State.PARKED, State.COLD):
            self._note_residents()

    def _note_residents(self) -> None:
        """What is unloaded because the daemon ends shall be there again when it starts, and what is still to be restored too."""
        if self._closing or self._residents.busy:
            return
        there = [m for m in self.supervisor.models.values() if m.state in (State.READY, State.PARKED)]
        there.sort(key=lambda model: -model.last_used)
        self.experience.note_residents([n for m in there if m.key != SYNTHETIC.hash for n in m.names])

    async def _keep_experience(self) -> None:
        """Every minute, what no event carries; and whether the store still takes it, more often."""
        while True:
            for _ in range(4):
                await self.experience.check()
                await asyncio.sleep(15.0)
            self.experience.remember(self.history)
            self._note_residents()

    async def _warm_fork_server(self) -> None:
        """Import torch before the first request asks for it; a failure is told to that request."""
        try:
            await self._room.fork_server.start()
        except OSError:
            pass

    async def _refresh(self) -> None:
        try:
            await asyncio.to_thread(self.catalogue.refresh)
            self.supervisor.reconcile(self.catalogue.specs())
        finally:
            self._refreshing = None

    def _bug(self, error: BaseException) -> None:
        """A part that must never fail has failed: better a whole daemon restarted than half of one running on."""
        if not self.failed.done():
            self.failed.set_exception(error)


def _policy(settings: Settings, host_tier: int) -> Policy:
    lifecycle = settings.lifecycle
    return Policy(
        keep_alive=lifecycle.keep_alive,
        parked_keep_alive=lifecycle.parked_keep_alive,
        parallel_loads=lifecycle.parallel_loads,
        queue_limit=lifecycle.queue_limit,
        linger=lifecycle.linger,
        max_wait=lifecycle.max_wait,
        suspend_after=lifecycle.suspend_after,
        load_stall=lifecycle.load_stall,
        ping_interval=lifecycle.ping_interval,
        ping_deadline=lifecycle.ping_deadline,
        host_tier=host_tier,
    )
