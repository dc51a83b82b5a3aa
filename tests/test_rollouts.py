import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.checkpoints.identity import identity_of
from cortexd.errors import BadRequest, CannotFit, LoadFailed, QueueFull
from cortexd.events import Decided, Event, EventBus, ModelMoved
from cortexd.rollouts import Proven, Rollouts
from tests.fake_engine import FakeEngine, Script
from tests.fakes import supervisor_over

GOOSE = ModelSpec(name="goose", source="file", size=100, strategy="old")
NEW = msgspec.structs.replace(GOOSE, strategy="new")


class House:
    """Rollouts over a real supervisor; the script of an engine goes by its spec's strategy."""

    def __init__(self, ceiling: int = 250) -> None:
        self.events = EventBus()
        self.told: list[Event] = []
        self.bugs: list[BaseException] = []
        self.scripts: dict[str, Script] = {}
        self.kept: dict[str, Proven | None] = {}
        self.proved: list[int] = []
        self.wanted = [GOOSE]
        self.supervisor = supervisor_over(
            self._make_engine,
            self.events,
            self.bugs,
            ceilings={"cpu": ceiling},
            estimate=lambda spec: {"cpu": spec.size},
        )
        self.rollouts = Rollouts(
            self.supervisor, self.reconcile, self.kept.__setitem__, self.proved.append, self.bugs.append
        )
        self.rollouts.version = 1
        self._listening = [self.events.subscribed(listener) for listener in (self.told.append, self.rollouts.note)]
        for listening in self._listening:
            listening.__enter__()

    def _make_engine(self, spec: ModelSpec) -> FakeEngine:
        engine = FakeEngine(spec, self.script(spec.strategy))
        self.script(spec.strategy).engines.append(engine)
        return engine

    def script(self, strategy: str) -> Script:
        return self.scripts.setdefault(strategy, Script())

    def reconcile(self) -> None:
        self.supervisor.reconcile(self.rollouts.specs(self.wanted))

    def configure(self, version: int, *wanted: ModelSpec) -> None:
        before, self.wanted = self.wanted, list(wanted)
        self.rollouts.adopt(before, self.wanted, version)
        for spec in self.rollouts.specs(self.wanted):
            if spec.hash in self.supervisor.models:
                self.supervisor.manage(spec)
        self.reconcile()
        self.rollouts.prove_loaded()

    async def use(self, wanted: ModelSpec) -> str:
        """The strategy that answers a request, as a request finds it."""
        served = self.rollouts.serving(wanted)
        try:
            async with self.supervisor.lease(served.spec, owner="test") as lease:
                assert isinstance(lease.engine, FakeEngine)
                return lease.engine.spec.strategy
        except (LoadFailed, CannotFit) as error:
            other = self.rollouts.fall_back(served.spec, error)
            if other is None:
                raise
            async with self.supervisor.lease(other.spec, owner="test"):
                return other.spec.strategy

    def state(self, spec: ModelSpec) -> str:
        return self.supervisor.status(spec).state

    async def until(self, spec: ModelSpec, *states: str) -> None:
        """Until it is in one of these states."""
        moved = asyncio.Event()
        with self.events.subscribed(lambda _: moved.set()):
            async with asyncio.timeout(10):
                while self.state(spec) not in states:
                    moved.clear()
                    await moved.wait()

    async def close(self) -> None:
        await self.rollouts.close()
        await self.supervisor.close(0.0)


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    house = House()
    yield house
    await house.close()
    assert not house.bugs


async def test_a_loaded_model_goes_on_answering_while_its_new_configuration_is_loaded_beside_it(house: House) -> None:
    await house.use(GOOSE)
    house.script("new").loading.clear()
    house.configure(2, NEW)
    await house.until(NEW, "loading")
    assert await house.use(NEW) == "old"
    assert house.rollouts.serving(NEW).header == "2; fallback=1"
    house.script("new").loading.set()
    await house.until(NEW, "ready")
    await house.until(GOOSE, "cold")
    assert await house.use(NEW) == "new"
    assert house.rollouts.serving(NEW).header == "2"


async def test_the_old_worker_ends_only_when_its_last_answer_has(house: House) -> None:
    async with house.supervisor.lease(GOOSE, owner="a long answer"):
        house.configure(2, NEW)
        await house.until(GOOSE, "draining")
        assert house.state(NEW) == "ready"
        assert await house.use(NEW) == "new"
    await house.until(GOOSE, "cold")


async def test_a_configuration_that_does_not_load_leaves_the_model_as_it_was_and_says_so(house: House) -> None:
    await house.use(GOOSE)
    house.script("new").load_error = "The strategy is no good."
    with house.events.subscribed(note := _Noted(Decided)):
        house.configure(2, NEW)
        decided = await note.next(lambda event: event.kind == "fallback")
    assert "The strategy is no good" in decided.reason
    assert "version 1" in decided.reason
    assert house.state(GOOSE) == "ready"
    assert house.rollouts.serving(NEW).header == "2; fallback=1"
    assert house.rollouts.fallbacks([NEW])["goose"].version == 1


async def test_a_cold_model_that_does_not_load_as_configured_is_loaded_as_it_last_did(house: House) -> None:
    house.rollouts.recall({"goose": Proven(GOOSE, 1)})
    house.script("new").load_error = "The strategy is no good."
    house.configure(2, NEW)
    assert await house.use(NEW) == "old"
    assert house.rollouts.serving(NEW).fallback == 1


async def test_a_model_that_never_loaded_has_nothing_to_fall_back_to(house: House) -> None:
    house.script("old").load_error = "It is broken."
    with pytest.raises(LoadFailed, match="It is broken"):
        await house.use(GOOSE)


async def test_only_what_stands_against_the_configuration_makes_a_model_fall_back(house: House) -> None:
    house.rollouts.recall({"goose": Proven(GOOSE, 1)})
    house.configure(2, NEW)
    assert house.rollouts.fall_back(NEW, QueueFull()) is None
    assert house.rollouts.fall_back(NEW, BadRequest()) is None
    assert house.rollouts.serving(NEW).spec is NEW
    assert house.rollouts.fall_back(NEW, CannotFit()) is not None


async def test_where_memory_does_not_allow_both_the_old_one_goes_first() -> None:
    house = House(ceiling=150)
    await house.use(GOOSE)
    with house.events.subscribed(note := _Noted(ModelMoved)):
        house.configure(2, NEW)
        await note.next(lambda event: event.after == "ready")
    assert house.state(NEW) == "ready"
    assert await house.use(NEW) == "new"
    await house.close()


async def test_a_model_that_went_for_one_that_does_not_load_comes_back() -> None:
    house = House(ceiling=150)
    await house.use(GOOSE)
    house.script("new").load_error = "The strategy is no good."
    with house.events.subscribed(note := _Noted(ModelMoved)):
        house.configure(2, NEW)
        await note.next(lambda event: event.after == "failed")
        await note.next(lambda event: event.after == "ready")
    assert house.state(GOOSE) == "ready"
    assert house.rollouts.serving(NEW).header == "2; fallback=1"
    await house.close()


async def test_a_way_back_to_what_works_ends_the_fallback(house: House) -> None:
    await house.use(GOOSE)
    house.script("new").load_error = "The strategy is no good."
    house.configure(2, NEW)
    await house.until(NEW, "failed")
    house.configure(3, GOOSE)
    served = house.rollouts.serving(GOOSE)
    assert served.header == "3"
    assert house.state(GOOSE) == "ready"
    assert not house.rollouts.fallbacks([GOOSE])


async def test_what_is_relabelled_keeps_its_worker(house: House) -> None:
    await house.use(GOOSE)
    relabelled = msgspec.structs.replace(GOOSE, aliases=("gpt-4o",), keep_alive=5.0)
    house.configure(2, relabelled)
    assert house.state(relabelled) == "ready"
    assert house.rollouts.serving(relabelled).header == "2"
    assert len(house.script("old").engines) == 1


async def test_a_failure_is_tried_again_beside_what_answers_when_its_time_has_come(house: House) -> None:
    await house.use(GOOSE)
    house.script("new").load_error = "Not now."
    house.configure(2, NEW)
    await house.until(NEW, "failed")
    house.script("new").load_error = None
    later = house.supervisor.view.now() + 3600.0
    house.supervisor.view.now = lambda: later
    with house.events.subscribed(note := _Noted(ModelMoved)):
        assert house.rollouts.serving(NEW).fallback == 1
        await note.next(lambda event: event.model == "goose@2")


async def test_what_has_loaded_is_remembered_with_the_newest_version_that_had_it(house: House) -> None:
    await house.use(GOOSE)
    assert house.kept["goose"] == Proven(GOOSE, 1)
    assert house.proved == [1]
    other = ModelSpec(name="swan", source="file", size=100)
    house.configure(2, GOOSE, other)
    house.configure(3, NEW, other)
    assert (proven := house.kept["goose"]) is not None
    assert proven.version == 2
    await house.until(GOOSE, "draining", "unloading", "cold")
    assert house.kept["goose"] == Proven(NEW, 3)
    assert house.proved == [1, 3]


async def test_a_file_that_has_changed_since_is_nothing_to_fall_back_to(house: House, tmp_path: Path) -> None:
    file = tmp_path / "goose.pth"
    file.write_bytes(b"weights")
    was = msgspec.structs.replace(GOOSE, path=str(file), weights=identity_of(file))
    house.rollouts.recall({"goose": Proven(was, 1)})
    assert house.rollouts.fall_back(NEW, LoadFailed()) is not None
    file.write_bytes(b"other weights")
    assert house.rollouts.fall_back(NEW, LoadFailed()) is None
    file.unlink()
    assert house.rollouts.fall_back(NEW, LoadFailed()) is None


async def test_other_models_never_notice(house: House) -> None:
    swan = ModelSpec(name="swan", source="file", size=50, strategy="swan")
    house.wanted = [GOOSE, swan]
    await house.use(GOOSE)
    async with house.supervisor.lease(swan, owner="a stream"):
        house.script("new").load_error = "The strategy is no good."
        house.configure(2, NEW, swan)
        await house.until(NEW, "failed")
        assert house.state(swan) == "ready"
    assert [event.after for event in house.told if isinstance(event, ModelMoved) and event.model == "swan"] == [
        "queued", "loading", "warming", "ready",
    ]  # fmt: skip


async def test_all_who_waited_for_one_load_tell_of_one_failure(house: House) -> None:
    house.rollouts.recall({"goose": Proven(GOOSE, 1)})
    house.configure(2, NEW)
    house.script("new").load_error = "The strategy is no good."
    assert set(await asyncio.gather(*(house.use(NEW) for _ in range(10)))) == {"old"}
    now = house.supervisor.view.now()
    house.supervisor.view.now = lambda: now + 61.0  # a minute later it is tried again, not an hour
    assert house.rollouts.serving(NEW).cause == "failed"
    assert "being loaded" in house.rollouts.fallbacks([NEW])["goose"].reason


async def test_a_change_elsewhere_does_not_end_a_replacement_under_way() -> None:
    house = House(ceiling=150)
    swan = ModelSpec(name="swan", source="file", size=10, path="/swan", strategy="swan")
    await house.use(GOOSE)
    house.script("new").loading.clear()
    house.configure(2, NEW, swan)
    await house.until(NEW, "loading")
    house.configure(3, NEW, msgspec.structs.replace(swan, pin=True))
    assert house.supervisor.status(NEW).waiting == 1
    house.script("new").loading.set()
    await house.until(NEW, "ready")
    await house.close()


async def test_a_second_change_within_the_load_of_the_first_does_not_take_the_old_one_away(house: House) -> None:
    third = msgspec.structs.replace(GOOSE, strategy="third")
    await house.use(GOOSE)
    house.script("new").loading.clear()
    house.script("third").loading.clear()
    house.configure(2, NEW)
    await house.until(NEW, "loading")
    house.configure(3, third)
    await house.until(third, "loading")
    assert house.state(GOOSE) == "ready"
    assert await house.use(third) == "old"
    house.script("third").loading.set()
    await house.until(GOOSE, "cold")
    assert await house.use(third) == "third"


async def test_of_two_that_do_not_fit_beside_together_one_goes_first() -> None:
    house = House(ceiling=260)
    names = ("a", "b")
    old = [ModelSpec(name=n, source="file", path=f"/{n}", strategy=n, size=60) for n in names]
    new = [msgspec.structs.replace(spec, strategy=f"{spec.name}2", size=100) for spec in old]
    house.wanted = old
    for spec in old:
        await house.use(spec)
    house.configure(2, *new)
    for was, spec in zip(old, new, strict=True):
        await house.until(was, "cold")
        await house.until(spec, "ready")
        assert house.rollouts.serving(spec).header == "2"
    await house.close()


async def test_a_load_beside_that_finds_no_room_goes_the_other_way() -> None:
    house = House(ceiling=250)
    house.supervisor.policy.max_wait = 0.01
    await house.use(GOOSE)
    async with house.supervisor.lease(ModelSpec(name="swan", source="file", size=1, path="/swan"), owner="a stream"):
        house.configure(2, NEW)
        house.supervisor.set_ceilings({"cpu": 130})  # before it has begun
        await house.until(NEW, "ready")
    assert await house.use(NEW) == "new"
    await house.close()


async def test_what_can_change_live_does_so_for_a_model_that_has_fallen_back(house: House) -> None:
    await house.use(GOOSE)
    house.script("new").load_error = "The strategy is no good."
    wanted = msgspec.structs.replace(NEW, pin=True, keep_alive=7.0, aliases=("gander",))
    house.configure(2, wanted)
    await house.until(wanted, "failed")
    served = house.rollouts.serving(wanted).spec
    assert (served.strategy, served.pin, served.keep_alive, served.aliases) == ("old", True, 7.0, ("gander",))
    assert house.supervisor.status(GOOSE).pinned


async def test_another_model_of_a_name_that_was_removed_is_another(house: House) -> None:
    await house.use(GOOSE)
    house.configure(2)
    house.script("new").load_error = "It is broken."
    house.configure(3, NEW)
    with pytest.raises(LoadFailed):
        await house.use(NEW)
    assert house.kept["goose"] is None


async def test_a_loaded_model_that_was_renamed_has_proved_itself_under_its_new_name(house: House) -> None:
    goose = msgspec.structs.replace(GOOSE, path="/goose.pth")
    house.wanted = [goose]
    await house.use(goose)
    gander = msgspec.structs.replace(goose, name="gander")
    house.configure(2, gander)
    house.script("new").load_error = "It is broken."
    house.configure(3, bad := msgspec.structs.replace(gander, strategy="new"))
    assert await house.use(bad) == "old"


async def test_while_its_successor_loads_a_model_says_so(house: House) -> None:
    await house.use(GOOSE)
    house.script("new").loading.clear()
    house.configure(2, NEW)
    assert house.rollouts.serving(NEW).cause == "loading"
    assert "being loaded" in house.rollouts.fallbacks([NEW])["goose"].reason


class _Noted:
    """A listener that can be waited for."""

    def __init__(self, kind: type[Event]) -> None:
        self._kind = kind
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def __call__(self, event: Event) -> None:
        if isinstance(event, self._kind):
            self._events.put_nowait(event)

    async def next(self, fits: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(10):
            while not fits(event := await self._events.get()):
                pass
            return event
