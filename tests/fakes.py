"""A stand-in for the daemon, without processes: its catalogue, its journal, and a real supervisor over fake engines."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Settings
from cortexd.daemon import Readiness
from cortexd.engines.protocol import Engine
from cortexd.engines.sessions import Sessions
from cortexd.errors import CortexdError, UnknownModel
from cortexd.events import Decided, Event, EventBus, RequestEnded
from cortexd.lifecycle.administration import Administration
from cortexd.lifecycle.history import History
from cortexd.lifecycle.incarnation import Incarnation
from cortexd.lifecycle.policy import Policy
from cortexd.lifecycle.prediction import Predictor
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.memory.process import Usage
from cortexd.rollouts import Rollouts
from cortexd.state_library import StateLibrary
from tests.fake_engine import FakeEngine, Script


class FakeCatalogue:
    """Specs in memory; what `arrives` is seen after the next refresh, as a new file is."""

    def __init__(self, specs: Sequence[ModelSpec]) -> None:
        self.arrives: list[ModelSpec] = []
        self._specs = list(specs)

    def specs(self) -> list[ModelSpec]:
        return list(self._specs)

    def resolve(self, name: str) -> ModelSpec:
        for spec in self._specs:
            if name.lower() in (spec.name, *spec.aliases):
                return spec
        raise UnknownModel(f"There is no model {name!r}.", param="model")

    def refresh(self) -> None:
        self._specs += self.arrives
        self.arrives = []

    def editions(self) -> list[ModelSpec]:
        return []

    def split(self, name: str) -> None:
        """None of its names is an alias that leads elsewhere."""

    def change(self, name: str, **keys: Any) -> ModelSpec:
        """As another configuration would."""
        changed = msgspec.structs.replace(self.resolve(name), **keys)
        self._specs = [changed if spec.name == name else spec for spec in self._specs]
        return changed


class FakeJournal:
    """In the place of `cortexd.store.journal.Journal`: rows as dictionaries."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []  # the newest last

    def note(self, decided: Decided) -> None:
        self.rows.append({"id": len(self.rows) + 1, **msgspec.to_builtins(decided)})

    async def query(
        self,
        *,
        model: str | None,
        kinds: Sequence[str] | None,
        since: float | None,
        before_id: int | None,
        limit: int,
    ) -> list[dict[str, Any]]:
        fitting = [
            row
            for row in reversed(self.rows)
            if model in (None, row["model"])
            and (kinds is None or row["kind"] in kinds)
            and (since is None or row["at"] >= since)
            and (before_id is None or row["id"] < before_id)
        ]
        return fitting[:limit]


class FakeDaemon:
    """In the place of `cortexd.daemon.Daemon`: real settings, supervisor and events over fake engines and models."""

    def __init__(
        self,
        *specs: ModelSpec,
        settings: Settings | None = None,
        comment_s: float = 3.0,
        ceiling: int | None = None,
        **policy: float,
    ) -> None:
        """`ceiling` is the budget of the only device in bytes, of which a model takes its size; None: there is none."""
        server = {"drain_s": 0.0, "loading_comment_s": comment_s}
        self.settings = settings or msgspec.convert({"server": server}, Settings)
        self.catalogue = FakeCatalogue(specs or [ModelSpec(name="goose", source="file", path="/goose.pth")])
        self.events = EventBus()
        self.scripts: dict[str, Script] = {}
        self.ended: asyncio.Queue[RequestEnded] = asyncio.Queue()
        self.all_ended: list[RequestEnded] = []
        self.bugs: list[BaseException] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.checks = {"supervisor": "ok"}
        self.refreshes = 0
        self.journal = FakeJournal()
        self.supervisor = supervisor_over(
            self._make_engine,
            self.events,
            self.bugs,
            ceilings={} if ceiling is None else {"cpu": ceiling},
            estimate=lambda spec: {} if ceiling is None else {"cpu": spec.size},
            **policy,
        )
        self.rollouts = Rollouts(
            self.supervisor, self._reconcile, lambda _name, _proven: None, lambda _: None, self.bugs.append
        )
        self.rollouts.version = 18
        self.desired: list[tuple[str, str, dict[str, Any]]] = []  # name, author, keys
        self.refuses_changes: CortexdError | None = None
        self.administration = Administration(self.supervisor)
        self.states = StateLibrary(None, None)
        self.sessions = Sessions(None, self.events.publish)
        self.predictor: Predictor | None = Predictor()
        self._listening = self.events.subscribed(self._note)
        self._listening.__enter__()

    def script(self, name: str = "goose") -> Script:
        """Of the engines of this model, or of all at this path."""
        return self.scripts.setdefault(name, Script())

    def leases(self, name: str = "goose") -> int:
        """Requests that hold this model or wait for it."""
        status = self.supervisor.status(self.catalogue.resolve(name))
        return status.leases + status.waiting

    async def make_ready(self, name: str = "goose") -> None:
        async with self.supervisor.lease(self.catalogue.resolve(name), owner="test"):
            pass

    async def supervisor_has_moved(self) -> None:
        """A turn of the loop: nothing here takes longer than some of them."""
        await asyncio.sleep(0)

    async def refresh_catalogue(self) -> None:
        self.refreshes += 1
        self.catalogue.refresh()

    async def recall(self, name: str) -> None:
        """There are no earlier configurations."""

    async def desire(self, name: str, author: str, reason: str, **keys: Any) -> None:
        """As the real one, without keeping it."""
        if self.refuses_changes is not None:
            raise self.refuses_changes
        self.desired.append((name, author, keys))
        self.catalogue.change(name, **keys)
        self._reconcile()

    def _reconcile(self) -> None:
        specs = self.rollouts.specs(self.catalogue.specs())
        for spec in specs:
            if spec.hash in self.supervisor.models:
                self.supervisor.manage(spec).pinned = False
        self.supervisor.reconcile(specs)

    def readiness(self) -> Readiness:
        return Readiness(all(check == "ok" for check in self.checks.values()), self.checks)

    async def close(self) -> None:
        await self.supervisor.close(0.0)

    def _make_engine(self, spec: ModelSpec) -> FakeEngine:
        script = self.scripts.get(spec.path) or self.script(spec.name)
        engine = FakeEngine(spec, script)
        script.engines.append(engine)
        return engine

    def _note(self, event: Event) -> None:
        self.rollouts.note(event)
        if isinstance(event, Decided):
            self.journal.note(event)
        if isinstance(event, RequestEnded):
            self.ended.put_nowait(event)
            self.all_ended.append(event)


class FakeGauge:
    """Implements `cortexd.lifecycle.incarnation.Gauge`: nothing is held, and the kernel ends nobody unless a test says so."""

    def __init__(self) -> None:
        self.resident: dict[str, int] = {}
        self.kills = 0

    def measure(self, pids: list[int]) -> Usage:
        return Usage(dict(self.resident))

    def oom_kills(self) -> int:
        return self.kills


def supervisor_over(
    make_engine: Callable[[ModelSpec], Engine],
    events: EventBus,
    bugs: list[BaseException],
    *,
    gauge: FakeGauge | None = None,
    ceilings: dict[str, int] | None = None,
    estimate: Callable[[ModelSpec], dict[str, int]] = lambda _: {},
    **policy: float,
) -> Supervisor:
    """A real supervisor with real incarnations of these engines, which keeps models for ever unless told otherwise."""
    policy = {"keep_alive": -1.0, "ping_interval": 3600.0, **policy}
    rules = msgspec.convert(policy, Policy, strict=False)
    watch = gauge or FakeGauge()
    return Supervisor(
        lambda spec, tell: Incarnation(lambda: make_engine(spec), tell, rules, watch),
        rules,
        History(estimate),
        ceilings or {},
        asyncio.get_running_loop(),
        events.publish,
        bugs.append,
    )
