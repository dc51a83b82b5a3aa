"""Loads, leases, unloads, failures: over fake engines, with nothing but events to wait for."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import msgspec
import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import CortexdError, EngineDied, LoadFailed, QueueFull, ShuttingDown
from cortexd.events import Decided, Event, EventBus, ModelMoved
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.states import LEGAL, State
from tests.fakes import supervisor_over
from tests.lifecycle.scripted_engine import ScriptedEngine

GOOSE = ModelSpec(name="goose", source="file", path="/goose.pth", weights="1")
SWAN = ModelSpec(name="swan", source="file", path="/swan.pth", weights="1")


class House:
    """A supervisor, the engines it made, and what it told."""

    def __init__(self, **policy: float) -> None:
        self.engines: list[ScriptedEngine] = []
        self.script: Callable[[ScriptedEngine], None] = lambda engine: None
        self.moves: list[ModelMoved] = []
        self.decisions: list[Decided] = []
        self.bugs: list[BaseException] = []
        self._moved = asyncio.Event()
        self._bus = EventBus()
        self._bus_listening = self._bus.subscribed(self._note)
        self._bus_listening.__enter__()
        ceilings, estimate = {"cpu": 1000}, lambda _: {"cpu": 1}
        self.supervisor = supervisor_over(
            self._make, self._bus, self.bugs, ceilings=ceilings, estimate=estimate, **policy
        )

    def lease(self, spec: ModelSpec = GOOSE, owner: str = "test") -> Lease:
        return self.supervisor.lease(spec, owner=owner)

    def state(self, spec: ModelSpec = GOOSE) -> str:
        return self.supervisor.status(spec).state

    async def until(self, state: State, spec: ModelSpec = GOOSE) -> None:
        async with asyncio.timeout(5):
            while self.state(spec) != state:
                self._moved.clear()
                await self._moved.wait()

    def _make(self, spec: ModelSpec) -> ScriptedEngine:
        engine = ScriptedEngine(spec)
        self.script(engine)
        self.engines.append(engine)
        return engine

    def _note(self, event: Event) -> None:
        if isinstance(event, Decided):
            self.decisions.append(event)
            return
        assert isinstance(event, ModelMoved)
        self.moves.append(event)
        self._moved.set()


@contextlib.asynccontextmanager
async def house(**policy: float) -> AsyncGenerator[House]:
    it = House(**policy)
    yield it
    await it.supervisor.close(1.0)
    assert it.bugs == []
    for move in it.moves:
        assert State(move.after) in LEGAL[State(move.before)]
    assert all(engine.stopped for engine in it.engines)


async def test_a_lease_loads_a_cold_model():
    async with house() as it:
        async with it.lease() as lease:
            assert lease.engine is it.engines[0]
            assert lease.tier == "cold"
            assert it.state() == State.READY
        assert [move.after for move in it.moves] == ["queued", "loading", "warming", "ready"]


async def test_a_thousand_first_requests_start_one_load():
    async with house() as it:
        it.script = lambda engine: engine.loading.clear()
        leases = [it.lease() for _ in range(1000)]
        await it.until(State.LOADING)
        it.engines[0].loading.set()
        assert all(await asyncio.gather(*(lease.granted() for lease in leases)))
        assert len(it.engines) == 1
        assert it.supervisor.status(GOOSE).leases == 1000
        for lease in leases:
            lease.release()
        assert it.supervisor.status(GOOSE).leases == 0


async def test_a_ready_model_is_leased_at_once():
    async with house() as it:
        async with it.lease():
            pass
        lease = it.lease()
        assert await lease.granted(timeout=0)
        assert lease.tier == "ready"
        lease.release()


async def test_the_first_client_may_leave_while_others_wait_for_its_load():
    async with house() as it:
        it.script = lambda engine: engine.loading.clear()
        first, second = it.lease(), it.lease()
        await it.until(State.LOADING)
        first.release()
        it.engines[0].loading.set()
        assert await second.granted()
        assert it.supervisor.status(GOOSE).leases == 1
        second.release()


async def test_a_model_that_nobody_wants_any_more_is_not_loaded():
    async with house(parallel_loads=1) as it:
        it.script = lambda engine: engine.loading.clear()
        goose, swan = it.lease(), it.lease(SWAN)
        await it.until(State.LOADING)
        assert it.state(SWAN) == State.QUEUED
        assert swan.progress().queue == 1
        swan.release()
        it.engines[0].loading.set()
        await it.until(State.COLD, SWAN)
        assert await goose.granted()
        assert len(it.engines) == 1
        goose.release()


async def test_a_ready_model_serves_while_another_one_loads():
    async with house() as it:
        async with it.lease():
            pass
        it.script = lambda engine: engine.loading.clear()
        slow = it.lease(SWAN)
        await it.until(State.LOADING, SWAN)
        async with it.lease() as lease:
            assert lease.tier == "ready"
        slow.release()
        it.engines[1].loading.set()
        await it.until(State.READY, SWAN)


async def test_an_idle_model_is_unloaded_after_its_keep_alive():
    async with house(keep_alive=0.01) as it:
        async with it.lease():
            pass
        await it.until(State.COLD)
        assert it.engines[0].stopped
        async with it.lease():
            assert it.state() == State.READY
        assert len(it.engines) == 2


async def test_a_model_in_use_outlives_its_keep_alive():
    async with house(keep_alive=0.0) as it:
        async with it.lease(), it.lease(SWAN):
            pass
        await it.until(State.COLD)
        lease = it.lease()
        await lease.granted()
        async with it.lease(SWAN):
            pass
        await it.until(State.COLD, SWAN)  # later than goose would have gone
        assert it.state() == State.READY
        lease.release()


async def test_a_draining_model_whose_change_is_taken_back_is_rescued():
    async with house() as it:
        old = it.lease()
        await old.granted()
        changed = msgspec.structs.replace(GOOSE, weights="2")
        it.script = lambda engine: engine.loading.clear()
        waiting = it.lease(changed)
        assert it.state() == State.DRAINING
        waiting.release()
        async with it.lease() as lease:
            assert lease.engine is old.engine
        assert it.state() == State.READY
        old.release()


async def test_a_changed_model_is_loaded_anew_while_the_old_one_ends_its_answers():
    async with house() as it:
        old = it.lease()
        await old.granted()
        changed = msgspec.structs.replace(GOOSE, weights="2")
        new = it.lease(changed)
        assert await new.granted()
        assert it.state() == State.DRAINING
        assert [engine.spec.weights for engine in it.engines] == ["1", "2"]
        old.release()
        await it.until(State.COLD)
        assert it.engines[0].stopped
        assert it.state(changed) == State.READY
        new.release()


async def test_a_change_that_needs_no_new_process_has_its_effect_at_once():
    async with house() as it:
        async with it.lease():
            pass
        async with it.lease(msgspec.structs.replace(GOOSE, keep_alive=0.0)):
            pass
        await it.until(State.COLD)
        assert len(it.engines) == 1


async def test_whoever_asks_while_a_model_unloads_gets_its_next_incarnation():
    async with house(keep_alive=0.0) as it:
        it.script = lambda engine: engine.stopping.clear()
        async with it.lease():
            pass
        await it.until(State.UNLOADING)
        lease = it.lease()
        it.script = lambda engine: None
        it.engines[0].stopping.set()
        assert await lease.granted()
        assert it.supervisor.status(GOOSE).incarnation == 2
        lease.release()


async def test_a_failed_load_is_told_to_all_and_remembered():
    async with house() as it:
        it.script = lambda engine: engine.fail_load("goose.pth is cut off; download it again.")
        leases = [it.lease() for _ in range(3)]
        for lease in leases:
            with pytest.raises(LoadFailed, match="cut off"):
                await lease.granted()
        for _ in range(50):
            with pytest.raises(LoadFailed, match="cut off") as refused:
                it.lease()
            assert 0 < (refused.value.retry_after or 0) <= 1
        assert len(it.engines) == 1


async def test_the_back_off_doubles_and_ends_with_a_changed_file():
    async with house() as it:
        it.script = lambda engine: engine.fail_load("broken")
        delays: list[float] = []
        for weights in "1", "1", "2":
            spec = msgspec.structs.replace(GOOSE, weights=weights)
            model = it.supervisor.models.get(spec.hash)
            if model is not None and model.failure is not None:
                model.failure = msgspec.structs.replace(model.failure, until=0.0 if weights == "1" else 1e12)
            with pytest.raises(LoadFailed):
                await it.lease(spec).granted()
            with pytest.raises(LoadFailed) as refused:
                it.lease(spec)
            delays.append(round(refused.value.retry_after or 0))
        assert delays == [1, 2, 1]


async def test_a_model_that_makes_no_token_is_not_ready():
    async with house() as it:
        it.script = lambda engine: engine.fail_probe("made no token")
        with pytest.raises(LoadFailed, match="made no token"):
            await it.lease().granted()
        assert it.state() == State.FAILED


async def test_a_load_without_progress_is_given_up():
    async with house(load_stall=0.02) as it:
        it.script = lambda engine: engine.loading.clear()
        with pytest.raises(LoadFailed, match="no progress"):
            await it.lease().granted()


async def test_a_load_with_progress_is_not():
    async with house(load_stall=0.1) as it:
        it.script = lambda engine: engine.progress_slowly(steps=10, pause=0.02)
        async with it.lease():
            assert it.state() == State.READY


async def test_an_engine_that_dies_is_replaced_at_the_next_request():
    async with house() as it:
        async with it.lease():
            model = it.supervisor.models[GOOSE.hash]
            model.ready_since -= 3600  # it did not die young
            it.engines[0].die("killed by SIGKILL")
            await it.until(State.COLD)
        assert "SIGKILL" in (it.supervisor.status(GOOSE).error or "")
        async with it.lease() as lease:
            assert lease.engine is it.engines[1]


async def test_an_engine_that_keeps_dying_before_it_has_served_anybody_is_left_alone_for_a_while():
    async with house() as it:
        for after in State.COLD, State.FAILED:
            async with it.lease():
                it.engines[-1].die("killed by SIGSEGV")
                await it.until(after)
        with pytest.raises(LoadFailed, match="SIGSEGV"):
            it.lease()


async def test_an_engine_that_does_not_answer_counts_as_dead():
    async with house(ping_interval=0.01, ping_deadline=0.01) as it:
        it.script = lambda engine: engine.pong.clear()
        async with it.lease():
            await it.until(State.COLD)
        assert "did not answer" in (it.supervisor.status(GOOSE).error or "")


async def test_a_queue_has_a_limit():
    async with house(queue_limit=2) as it:
        it.script = lambda engine: engine.loading.clear()
        leases = [it.lease(), it.lease()]
        with pytest.raises(QueueFull):
            it.lease()
        await it.until(State.LOADING)
        it.engines[0].loading.set()
        for lease in leases:
            await lease.granted()
            lease.release()


async def test_shutting_down_answers_everybody_and_waits_for_leases():
    async with house() as it:
        running = it.lease()
        await running.granted()
        it.script = lambda engine: engine.loading.clear()
        waiting = it.lease(SWAN)
        await it.until(State.LOADING, SWAN)
        closing = asyncio.create_task(it.supervisor.close(5.0))
        with pytest.raises(ShuttingDown):
            await waiting.granted()
        with pytest.raises(ShuttingDown):
            it.lease()
        assert not it.engines[0].stopped
        running.release()
        await closing
        assert it.engines[0].stopped


async def test_shutting_down_has_a_deadline():
    async with house() as it:
        lease = it.lease()
        await lease.granted()
        await it.supervisor.close(0.01)
        assert it.engines[0].stopped
        lease.release()


async def test_a_bug_in_an_engine_leaves_nobody_waiting():
    async with house() as it:
        it.script = lambda engine: engine.break_load(RuntimeError("a bug"))
        with pytest.raises(CortexdError):
            await it.lease().granted()
        assert [str(bug) for bug in it.bugs] == ["a bug"]
        it.bugs.clear()
        it.engines.clear()


def test_errors_of_a_dead_engine_may_be_tried_again():
    assert EngineDied().retry
    assert not LoadFailed().retry
