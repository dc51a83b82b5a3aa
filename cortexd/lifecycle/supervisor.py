"""Who loads and unloads. Whoever wants a model asks for a lease, and never looks first."""

import asyncio
from collections.abc import Callable

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import Engine, EngineFacts, LoadProgress
from cortexd.errors import CortexdError, LoadFailed, QueueFull, ShuttingDown
from cortexd.events import Event
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.managed_model import ManagedModel
from cortexd.lifecycle.states import COMING, State

_CRASH_LOOP = 10.0  # seconds: an engine that dies this soon after it was ready is not tried again at once
_KILL_GRACE = 5.0  # seconds between asking an engine to end and ending it


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor is configured to do; all times in seconds."""

    keep_alive: float = 300.0  # from the end of the last use to the unload; negative: for ever
    parallel_loads: int = 2
    queue_limit: int = 1024  # requests waiting for one model
    load_stall: float = 120.0  # without progress until a load is given up
    ping_interval: float = 10.0
    ping_deadline: float = 60.0  # without an answer until an engine counts as hung


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be seen of a model from outside."""

    name: str
    state: str
    incarnation: int
    leases: int
    waiting: int
    engine: str
    loaded_bytes: int
    context: int
    percent: int
    keep_alive_left_s: float | None  # None: not loaded, in use, or kept for ever
    error: str | None


class Supervisor:
    """One owner of every model's state. Each incarnation of a model is one task, from `queued` to `cold` or `failed`."""

    def __init__(
        self,
        make_engine: Callable[[ModelSpec], Engine],
        policy: Policy,
        publish: Callable[[Event], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._make_engine = make_engine
        self._policy = policy
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._models: dict[str, ManagedModel] = {}
        self._turns = asyncio.Semaphore(policy.parallel_loads)
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._on_bug = on_bug

    def lease(self, spec: ModelSpec, *, owner: str) -> Lease:
        """A lease on this model, granted now or when its load is done.

        1. shutting down: refused; 2. ready: granted; 3. draining: rescued, unless others wait for the next incarnation already;
        4. being loaded: joins; 5. unloading: waits for the next incarnation; 6. failed a moment ago: refused with the same
        sentence; 7. else a load begins. A spec that has changed since the load drains the old incarnation.
        """
        if self._closing:  # 1
            raise ShuttingDown
        model = self._model(spec)
        lease = Lease(owner, self._now, lambda: model.progress(self._loads_before(model)))
        same = model.spec.hash == spec.hash
        if same:
            model.spec = spec  # what can change live has its effect from now on
        if model.state is State.READY and same:  # 2
            model.lease_now(lease)
            return lease
        if model.state is State.DRAINING and same and not model.waiters:  # 3
            model.move_to(State.READY, f"rescued by {owner}")
            model.changed.set()
            model.lease_now(lease)
            return lease
        if len(model.waiters) >= self._policy.queue_limit:
            raise QueueFull(retry_after=1.0)
        if model.state is State.FAILED:
            assert model.failure is not None
            if same and self._now() < model.failure.until:  # 6
                raise model.refusal()
            if not same:
                model.failures = 0
            model.move_to(State.COLD, "may be tried again" if same else "its configuration has changed")
        if model.state is State.COLD:  # 7
            model.spec = spec
            model.wait(lease)
            self._begin_life(model, owner)
            return lease
        if model.state is State.READY:
            self._drain(model, "its configuration has changed")
        assert model.state in COMING | {State.DRAINING, State.UNLOADING}
        if not same:
            model.next_spec = spec
        model.wait(lease)  # 4, 5
        return lease

    def status(self, spec: ModelSpec) -> ModelStatus:
        model = self._models.get(spec.name) or ManagedModel(spec, self._publish, self._now)
        left: float | None = None
        keep_alive = self._keep_alive(model)
        if model.state is State.READY and not model.leases and keep_alive is not None:
            left = max(0.0, model.last_used + keep_alive - self._now())
        return ModelStatus(
            name=spec.name,
            state=model.state.value,
            incarnation=model.incarnation,
            leases=len(model.leases),
            waiting=len(model.waiters),
            engine=model.facts.description if model.facts else spec.engine,
            loaded_bytes=model.facts.loaded_bytes if model.facts else 0,
            context=model.facts.context if model.facts else spec.limits.prompt_tokens,
            percent=model.progress(0).percent,
            keep_alive_left_s=left,
            error=model.failure.error.message if model.failure else None,
        )

    async def close(self, deadline: float) -> None:
        """Refuse what waits, let leases end until `deadline` seconds have passed, then end every engine."""
        self._closing = True
        for model in self._models.values():
            model.refuse_waiters(ShuttingDown)
            if model.state is State.READY:
                self._drain(model, "shutting down")
            elif model.state in COMING and (life := self._lives.get(model.spec.name)) is not None:
                life.cancel()
            model.changed.set()
        if not self._lives:
            return
        lives = set(self._lives.values())
        _, late = await asyncio.wait(lives, timeout=deadline)
        for life in late:
            life.cancel()
        if late:
            await asyncio.wait(late)

    def _model(self, spec: ModelSpec) -> ManagedModel:
        if (model := self._models.get(spec.name)) is None:
            model = self._models[spec.name] = ManagedModel(spec, self._publish, self._now)
        return model

    def _loads_before(self, model: ManagedModel) -> int:
        if model.state is not State.QUEUED:
            return 0
        names = list(self._lives)
        before = names[: names.index(model.spec.name)]
        return sum(self._models[name].state in COMING for name in before)

    def _keep_alive(self, model: ManagedModel) -> float | None:
        """Seconds, or None for ever."""
        seconds = self._policy.keep_alive if model.spec.keep_alive is None else model.spec.keep_alive
        return None if seconds < 0 else seconds

    def _drain(self, model: ManagedModel, reason: str) -> None:
        model.move_to(State.DRAINING, reason)
        model.changed.set()

    def _begin_life(self, model: ManagedModel, owner: str) -> None:
        model.move_to(State.QUEUED, f"wanted by {owner}")
        life = asyncio.create_task(self._live(model), name=f"life of {model.spec.name}")
        self._lives[model.spec.name] = life
        life.add_done_callback(lambda task: self._ended(model, task))

    def _ended(self, model: ManagedModel, life: "asyncio.Task[None]") -> None:
        if self._lives.get(model.spec.name) is life:
            del self._lives[model.spec.name]
        if not life.cancelled() and (error := life.exception()) is not None:
            # A bug. Nobody may be left waiting for a task that is no more, and the daemon must not go on half alive.
            model.refuse_waiters(lambda: LoadFailed(f"cortexd failed while it handled {model.spec.name}."))
            self._on_bug(error)

    async def _live(self, model: ManagedModel) -> None:
        """From `queued` to rest: load, serve, unload, and again for whoever has asked meanwhile."""
        while model.state is State.QUEUED:
            engine = await self._take_turn(model)
            if engine is None:
                return
            reason = await self._serve(model, engine)
            if reason is not None:
                await self._bury(model, engine, reason)
                return
            await self._unload(model, engine)

    async def _take_turn(self, model: ManagedModel) -> Engine | None:
        """`queued` to `ready`; None where nobody wants it any more or it failed."""
        try:
            async with self._turns:
                if model.waiters:
                    return await self._load(model)
        finally:
            if model.state is State.QUEUED:
                model.move_to(State.COLD, "nobody wants it any more")
        return None

    async def _bury(self, model: ManagedModel, engine: Engine, reason: str) -> None:
        """An engine has ended by itself: the next request starts it again, at once unless it died young."""
        young = self._now() - model.ready_since < _CRASH_LOOP
        if not young:
            model.failures = 0
        model.leases.clear()
        model.fail(LoadFailed(f"The process of {model.spec.name} ended: {reason}."), at_once_again=model.failures == 0)
        await engine.stop(0.0)

    async def _load(self, model: ManagedModel) -> Engine | None:
        """`loading` to `ready`; None where it failed."""
        model.begin_load()
        engine: Engine | None = None
        try:
            engine = self._make_engine(model.spec)
            facts = await self._start(model, engine)
            model.move_to(State.WARMING, "its weights are read")
            async with asyncio.timeout(self._policy.load_stall):
                await engine.probe()
        except (CortexdError, TimeoutError) as error:
            if engine is not None:
                await engine.stop(0.0)
            model.fail(_as_load_failure(error, model.spec.name, self._policy.load_stall))
            return None
        except asyncio.CancelledError:
            model.move_to(State.UNLOADING, "abandoned")
            if engine is not None:
                await engine.stop(0.0)
            model.move_to(State.COLD, "abandoned")
            raise
        model.become_ready(engine, facts)
        return engine

    async def _start(self, model: ManagedModel, engine: Engine) -> EngineFacts:
        """The deadline of a load is one of stalling: each sign of progress moves it."""
        stall = self._policy.load_stall
        async with asyncio.timeout(stall) as timeout:

            def note(progress: LoadProgress) -> None:
                model.note_progress(progress)
                timeout.reschedule(self._now() + stall)

            return await engine.start(note)

    async def _serve(self, model: ManagedModel, engine: Engine) -> str | None:
        """`ready` and `draining`, until the last lease of a draining model ends (None) or the engine does (why)."""
        name = model.spec.name
        ended = asyncio.create_task(self._watch(engine), name=f"watch {name}")
        try:
            while True:
                model.changed.clear()
                if model.state is State.READY and self._expired(model):
                    self._drain(model, "not used for its keep_alive")
                if model.state is State.DRAINING and not model.leases:
                    return None
                changed = asyncio.create_task(model.changed.wait(), name=f"changes of {name}")
                try:
                    await asyncio.wait(
                        {ended, changed}, timeout=self._until_expiry(model), return_when="FIRST_COMPLETED"
                    )
                finally:
                    changed.cancel()
                if ended.done():
                    return ended.result()
        except asyncio.CancelledError:  # the deadline of a shutdown has passed
            model.leases.clear()
            await self._unload(model, engine, grace=0.0)
            raise
        finally:
            ended.cancel()

    async def _watch(self, engine: Engine) -> str:
        """Why the engine is of no more use: it has ended, or it no longer answers."""
        ended = asyncio.ensure_future(engine.ended())
        try:
            while True:
                await asyncio.wait([ended], timeout=self._policy.ping_interval)
                if ended.done():
                    return ended.result()
                try:
                    async with asyncio.timeout(self._policy.ping_deadline):
                        await engine.ping()
                except TimeoutError:
                    return f"it did not answer for {self._policy.ping_deadline:.0f} s"
                except CortexdError:
                    return await ended
        finally:
            ended.cancel()

    async def _unload(self, model: ManagedModel, engine: Engine, grace: float = _KILL_GRACE) -> None:
        model.engine = model.facts = None
        model.failures = 0
        model.move_to(State.UNLOADING, "its last lease has ended")
        await engine.stop(grace)
        if model.next_spec is not None:
            model.spec, model.next_spec = model.next_spec, None
        if model.waiters:
            model.move_to(State.QUEUED, "wanted again")
        else:
            model.move_to(State.COLD, "unloaded")

    def _expired(self, model: ManagedModel) -> bool:
        left = self._until_expiry(model)
        return left is not None and left <= 0

    def _until_expiry(self, model: ManagedModel) -> float | None:
        keep_alive = self._keep_alive(model)
        if keep_alive is None or model.leases or model.state is not State.READY:
            return None
        return max(0.0, model.last_used + keep_alive - self._now())


def _as_load_failure(error: Exception, name: str, stall: float) -> CortexdError:
    if isinstance(error, LoadFailed):
        return error
    if isinstance(error, TimeoutError):
        return LoadFailed(f"Loading {name} made no progress for {stall:.0f} s and was given up.")
    return LoadFailed(f"{name} could not be loaded: {error}")
