"""The composition root: every service is built here, once, and they meet nowhere else."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from cortexd.canaries import Canaries, without
from cortexd.catalogue.catalogue import Catalogue, Edition
from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Paths, Settings, Sources
from cortexd.config.merging import merged
from cortexd.configuration import Configuration
from cortexd.engine_room import EngineRoom, Scales
from cortexd.engines.cores import Cores
from cortexd.engines.protocol import Engine
from cortexd.engines.registry import EngineRegistry
from cortexd.engines.sessions import Sessions
from cortexd.errors import Conflict, CortexdError, InvalidConfiguration, StoreFailed, UnknownVersion
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
from cortexd.lifecycle.trial import Verdict
from cortexd.lifecycle.warm_up import WarmUp
from cortexd.memory.host import Host
from cortexd.memory.nvidia import installed_gpus
from cortexd.memory.watch import MemoryWatch
from cortexd.preparation import Preparation, Prepared
from cortexd.rollouts import Rollouts
from cortexd.state_library import StateLibrary
from cortexd.store.snapshot import Origin
from cortexd.watch import Watch

_log = logging.getLogger("cortexd")

_AGAIN = 10.0  # seconds until what could not be put right is tried again


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be answered, and what was looked at."""

    ready: bool
    checks: dict[str, str]

    @property
    def alive(self) -> bool:
        """Whether it is worth going on: a full disk is no reason to end what still answers."""
        return all(self.checks.get(part, "ok") == "ok" for part in ("supervisor", "tasks"))


class Daemon:
    """Everything but HTTP. Entering starts it; leaving ends every engine within the drain deadline."""

    def __init__(self, sources: Sources, paths: Paths | None = None) -> None:
        """Raises StoreFailed where the database cannot be used. Without `paths` nothing is kept beyond this daemon's life."""
        self.settings = Settings()
        self.events = EventBus()
        self.catalogue = Catalogue(self.settings)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.experience = Experience(paths.data / "cortexd.db" if paths is not None else None, self._bug)
        self.states = StateLibrary(self.experience.states, paths.data / "states" if paths is not None else None)
        self.configuration: Configuration[Prepared] = Configuration(
            sources,
            self,
            self.events.publish,
            self.experience.snapshots,
            self.experience.failure,
            self.experience.copied_head,
        )
        self.sessions = Sessions(paths.data / "sessions" if paths is not None else None, self.events.publish)
        self._room = EngineRoom(paths.cache if paths is not None else None, self.sessions)
        self._registry = EngineRegistry(self._room)
        self._host, self._gpus = Host(), installed_gpus()
        self._scales = Scales(self._host, self._gpus)
        self._policy = Policy()
        self.history = History(self._registry.footprint, self.experience.record)
        loop = asyncio.get_running_loop()
        self.supervisor = Supervisor(
            self._make_run, self._policy, self.history, {}, loop, self.events.publish, self._bug
        )
        self.rollouts = Rollouts(
            self.supervisor, self._reconcile, self.experience.note_proven, self.experience.prove, self._bug
        )
        self.configuration.fallbacks = lambda: self.rollouts.fallbacks(self.catalogue.specs())
        self._preparation = Preparation(
            self.supervisor, self._registry, self._host, self._gpus, self.configuration.past, self._room.cache
        )
        self._canaries = Canaries(self._take_away)
        self.administration = Administration(self.supervisor)
        view = self.supervisor.view
        self._watch = MemoryWatch(
            self._host,
            self._gpus,
            view.ceilings,
            self.events,
            ours=view.ours,
            mapped=view.mapped,
            on_foreign=self.supervisor.note_foreign,
            on_pressure=self._relieve,
        )
        self._files = Watch(self._watched, self._look)
        self._liveness = Liveness(self.supervisor)
        self._residents = Residents(lambda name, owner: self._lease(name, owner, Priority.PRELOAD), self._falls_back)
        self._warm_up: WarmUp | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._looks_begun = self._looks_ended = 0
        self._services: list[asyncio.Task[Any]] = []
        self._listening = contextlib.ExitStack()
        self._reverts: set[asyncio.Task[None]] = set()
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
        await self.experience.start(self.history)
        await self.states.start()
        self.rollouts.recall(self.experience.proven)
        self._listening.enter_context(self.events.subscribed(self._listen))
        await self.configuration.start()
        self._serve(self.configuration.keep_deadlines(), "keep the deadlines of the configuration")
        self._serve(self._files.run(), "watch the files")
        self._serve(self._watch.run(), "watch the memory")
        self._serve(self._liveness.run(), "prove that we live")
        self._serve(self._keep_experience(), "keep what was learnt")
        if self.settings.lifecycle.restore:
            known = {spec.name: spec for spec in self.catalogue.specs() if spec.problem is None}
            there = [name for name in self.experience.residents if name in known and not known[name].preload]
            self._residents.bring(there, "restore")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Configuration

    async def prepare(self, settings: Settings, *, strict: bool) -> Prepared:
        """Implements `cortexd.configuration.Subject`."""
        return await self._preparation.prepare(self.catalogue, settings, strict=strict)

    def adopt(self, prepared: Prepared, version: int | None) -> None:
        """Implements `cortexd.configuration.Subject`."""
        before, self.settings = self.catalogue.specs(), prepared.settings
        self.catalogue = prepared.catalogue
        if self._preparation.started_with is None:
            self._preparation.started_with = self.settings
            self._room.cores = Cores(self.settings.engine.thread_count)
        self._room.adopt(self.settings, prepared.cache, prepared.ceilings)
        self._watch.sample_s = self.settings.memory.sample_s
        self.supervisor.decisions.config = version
        self.supervisor.adopt(prepared.policy)
        self.supervisor.set_ceilings(prepared.ceilings)
        self.rollouts.adopt(before, self.catalogue.specs(), version)
        self._reconcile()
        self.rollouts.prove_loaded()
        self._files.refresh()
        self._canaries.adopt(self.settings)
        for model in self.supervisor.models.values():
            model.pinned = False  # what holds from now on is what the configuration says
        self._predict(self.settings.lifecycle.predict)
        preloaded = {spec.name for spec in before if spec.preload}
        wanted = [spec.name for spec in self.catalogue.specs() if spec.preload and spec.name not in preloaded]
        self._residents.bring(wanted, "preload")

    async def reload(self) -> None:
        """Look at the configuration file and into the models directories. What is wrong is told, and changes nothing."""
        with contextlib.suppress(InvalidConfiguration, StoreFailed):
            await self.configuration.reload()
        await self.refresh_catalogue()

    def _watched(self) -> Iterator[Path]:
        if (file := self.configuration.sources.file) is not None:
            yield file
        yield from self.catalogue.directories

    async def _look(self, changed: set[Path]) -> None:
        if self.configuration.sources.file in changed:
            await self.reload()
        else:
            await self.refresh_catalogue()

    async def desire(self, name: str, author: str, reason: str, **keys: Any) -> None:
        """Have these keys of a model in the configuration, whether or not it was described there; raises what a change does,
        and Conflict for a model as an earlier version had it, which nobody changes any more.
        """
        if Edition.of(name) is not None and name not in {model.name for model in self.settings.model}:
            raise Conflict(f"{name} is what an earlier configuration had; change {name.rpartition('@')[0]} instead.")
        await self.configuration.change(
            lambda document: merged(document, {"model": {name: keys}}),
            Origin(author=author, reason=reason, source="api"),
        )

    def _take_away(self, alias: str, verdict: Verdict) -> None:
        task = asyncio.create_task(self._taken_away(alias, verdict), name=f"take {verdict.target} away from {alias}")
        self._reverts.add(task)
        task.add_done_callback(self._reverts.discard)

    async def _taken_away(self, alias: str, verdict: Verdict) -> None:
        """Until it is, or somebody has seen to it."""
        origin = Origin(author="cortexd", reason=f"alias {alias}: {verdict.reason}", source="auto-revert")
        while (split := self.catalogue.split(alias)) is not None and verdict.target in split.targets[1:]:
            try:
                await self.configuration.change(lambda document: without(document, alias, verdict.target), origin)
            except CortexdError as error:
                _log.error("alias %s: %s That could not be put right: %s", alias, verdict.reason, error.message)
                await asyncio.sleep(_AGAIN)

    async def recall(self, name: str) -> None:
        """Have `goose@17` in the catalogue from its next refresh on, where there was such a version, and is such a model."""
        edition = Edition.of(name)
        if edition is None or not self.catalogue.is_model(edition.model):
            return
        with contextlib.suppress(UnknownVersion, StoreFailed, InvalidConfiguration):
            settings = self.catalogue.past(edition.version) or await self.configuration.past(edition.version)
            self.catalogue.recall(edition, settings, in_use=self._preparation.names_in_use())

    # Models

    async def refresh_catalogue(self) -> None:
        """Look into the models directories, off the loop. A look that had begun before may have missed what the caller knows of:
        this is one that begins after it, shared by all who ask meanwhile.
        """
        wanted = self._looks_begun + 1
        while self._looks_ended < wanted:
            if self._refreshing is None:
                self._refreshing = asyncio.create_task(self._refresh(), name="refresh the catalogue")
            await asyncio.shield(self._refreshing)

    async def forget_states(self) -> None:
        """All that engines have kept of what they read: in their memory, and on the disk."""
        self._room.states.forget_in_memory()
        await asyncio.to_thread(self._room.states.forget_on_disk)

    def readiness(self) -> Readiness:
        checks = {
            "supervisor": "closing" if self._closing else ("ok" if self._liveness.alive else "hangs"),
            "store": self.experience.health(),
            "tasks": "failed" if self.failed.done() else "ok",
        }
        ready = all(check == "ok" for check in checks.values())
        return Readiness(ready, checks | {"configuration": self.configuration.problem or "ok"})

    async def close(self) -> None:
        """End what runs within `server.drain_s` seconds; then nothing of this daemon is left. Harmless when repeated."""
        if self._closing:
            return
        self._closing = True
        for task in (*self._services, *self._reverts):
            task.cancel()
        await self._residents.close()
        await self.rollouts.close()
        if self._warm_up is not None:
            await self._warm_up.close()
        await self.supervisor.close(self.settings.server.drain_s)
        await asyncio.gather(*self._services, return_exceptions=True)
        self._listening.close()
        await self._room.fork_server.close()
        await self.sessions.close()
        try:
            await self.experience.close(self.history)
        except StoreFailed as error:
            _log.error("what was learnt last is lost: %s", error.message)

    def _relieve(self, device: str, excess: int) -> None:
        """States go first: they cost least to have again."""
        if device == "cpu":
            self._room.states.relieve()
        self.supervisor.note_pressure(device, excess)

    def _make_run(self, spec: ModelSpec, tell: tidings.Tell) -> Run:
        def make_engine() -> Engine:
            return NullEngine() if spec.source == SYNTHETIC.source else self._registry.make(spec)

        return Incarnation(make_engine, tell, self._policy, self._scales)

    def _lease(self, name: str, owner: str, priority: Priority) -> Lease:
        spec = self.rollouts.serving(self.catalogue.resolve(name)).spec
        return self.supervisor.lease(spec, owner=owner, priority=priority)

    def _falls_back(self, name: str, error: CortexdError) -> bool:
        """Whether something else answers for this model from now on."""
        return self.rollouts.fall_back(self.catalogue.resolve(name), error) is not None

    def _serve(self, work: Any, name: str) -> None:
        service = asyncio.create_task(work, name=name)
        service.add_done_callback(self._service_ended)
        self._services.append(service)

    def _service_ended(self, service: "asyncio.Task[Any]") -> None:
        """A service goes on until it is cancelled: nobody else would see that it does not."""
        if not service.cancelled() and (error := service.exception()) is not None:
            self._bug(error)

    def _predict(self, wanted: bool) -> None:
        if self._warm_up is None and wanted:
            self._warm_up = WarmUp(
                self.experience.predictor, self._cold, lambda name: self._lease(name, "prediction", Priority.PREDICTED)
            )
            self.supervisor.on_asked = self._warm_up.asked
            self._warm_up.start()
        elif self._warm_up is not None and not wanted:
            ending, self._warm_up = self._warm_up, None
            self.supervisor.on_asked = lambda _: None
            ending.stop()

    def _cold(self) -> Sequence[str]:
        """Names of models that a request would have to wait for."""
        specs = [self.rollouts.serving(spec).spec for spec in self.catalogue.specs()]
        waits = (State.COLD.value, State.PARKED.value)
        return [spec.name for spec in specs if spec.problem is None and self.supervisor.status(spec).state in waits]

    def _reconcile(self) -> None:
        """The supervisor sees what is served now: what can change live changes, what nothing names any more goes."""
        specs = [*self.rollouts.specs(self.catalogue.specs()), *self.catalogue.editions()]
        for spec in specs:
            if spec.hash in self.supervisor.models:
                self.supervisor.manage(spec)
        self.supervisor.reconcile(specs)

    def _listen(self, event: Event) -> None:
        self.experience.note(event)
        self.rollouts.note(event)
        self._canaries.note(event)
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
        self._looks_begun += 1
        number = self._looks_begun
        try:
            await asyncio.to_thread(self.catalogue.refresh)
            self._reconcile()
        finally:
            self._looks_ended = number
            self._refreshing = None

    def _bug(self, error: BaseException) -> None:
        """A part that must never fail has failed: better a whole daemon restarted than half of one running on."""
        if not self.failed.done():
            self.failed.set_exception(error)
