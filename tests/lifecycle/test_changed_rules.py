"""A policy and ceilings that change under models which are there already."""

import asyncio

import msgspec
import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import CannotFit
from cortexd.events import Event, EventBus, ModelMoved
from cortexd.lifecycle.policy import Policy
from cortexd.lifecycle.states import State
from cortexd.lifecycle.supervisor import Supervisor
from tests.fakes import supervisor_over
from tests.lifecycle.scripted_engine import ScriptedEngine
from tests.lifecycle.stage import ONE, Stage

GOOSE = ModelSpec(name="goose", source="file", path="/goose.pth", weights="1")


def change(supervisor: Supervisor, **values: float) -> None:
    supervisor.adopt(msgspec.structs.replace(supervisor.policy, **values))


def load(stage: Stage, *names: str, cuda: int = 40) -> None:
    """Idle models of so many bytes, and of a tenth more in the ledger, which nothing protects any more."""
    for name in names:
        lease = stage.ask(stage.model(name, cuda=cuda))
        assert lease is not None
        stage.clock.pass_time(5)
        stage.leave(lease)


def ready(stage: Stage) -> set[str]:
    return {model.spec.name for model in stage.supervisor.models.values() if model.state is State.READY}


def test_every_value_of_a_policy_is_taken_over():
    before = Policy()
    after = Policy(**{name: getattr(before, name) + 1 for name in Policy.__struct_fields__})
    before.adopt(after)
    assert before == after


def test_a_shorter_keep_alive_ends_at_once_what_has_idled_for_longer():
    stage = Stage(ONE, keep_alive=1000, host_tier=0)
    load(stage, "goose")
    stage.clock.pass_time(50)
    change(stage.supervisor, keep_alive=60)
    stage.clock.pass_time(9)
    assert ready(stage) == {"goose"}
    change(stage.supervisor, keep_alive=30)
    assert ready(stage) == set()
    stage.close()


def test_a_longer_keep_alive_spares_what_was_about_to_go():
    stage = Stage(ONE, keep_alive=60)
    load(stage, "goose")
    stage.clock.pass_time(59)
    change(stage.supervisor, keep_alive=1000)
    stage.clock.pass_time(900)
    assert ready(stage) == {"goose"}
    stage.close()


def test_more_loads_at_once_begin_what_has_waited_for_its_turn():
    stage = Stage(ONE, parallel_loads=1)
    goose, swan = stage.model("goose", cuda=40, seconds=100), stage.model("swan", cuda=40)
    leases = [stage.ask(goose), stage.ask(swan)]
    stage.clock.pass_time(5)
    assert stage.state(swan) is State.QUEUED
    change(stage.supervisor, parallel_loads=2)
    assert stage.state(swan) is State.LOADING
    for lease in leases:
        stage.leave(lease)
    stage.settle_all()
    stage.close()


def test_under_a_lower_ceiling_idle_models_go_until_the_others_fit():
    stage = Stage(ONE, host_tier=0)
    load(stage, "goose", "swan")
    stage.supervisor.set_ceilings({"cuda:0": 60})
    assert ready(stage) == {"swan"}, "the longest unused goes, and no more than must"
    (evicted,) = [d for d in stage.decisions if d.kind == "evict"]
    assert (evicted.model, evicted.reason) == ("goose", "evicted because more is held on cuda:0 than there is")
    stage.supervisor.set_ceilings({"cuda:0": 10})
    assert ready(stage) == set()
    stage.close()


def test_under_a_lower_ceiling_a_model_in_use_goes_when_it_is_left():
    stage = Stage(ONE, host_tier=0)
    goose = stage.model("goose", cuda=40)
    lease = stage.ask(goose)
    assert lease is not None
    stage.clock.pass_time(5)
    stage.supervisor.set_ceilings({"cuda:0": 10})
    assert stage.state(goose) is State.READY
    stage.leave(lease)
    assert stage.state(goose) is not State.READY
    stage.close()


def test_who_waits_for_what_a_lower_ceiling_can_never_hold_is_refused():
    stage = Stage(ONE, max_wait=1000)
    goose, swan = stage.model("goose", cuda=40), stage.model("swan", cuda=60)
    held, waiting = stage.ask(goose), stage.ask(swan)
    assert held is not None
    assert waiting is not None
    stage.clock.pass_time(5)
    assert stage.state(swan) is State.QUEUED
    stage.supervisor.set_ceilings({"cuda:0": 50})
    assert stage.state(goose) is State.READY
    with pytest.raises(CannotFit, match=r"swan needs 66 B on cuda:0, and the budget there is 50 B"):
        waiting._granted()
    stage.settle_all()
    stage.close()


def test_a_higher_ceiling_begins_the_load_that_has_waited_for_room():
    stage = Stage(ONE, max_wait=1000)
    goose, swan = stage.model("goose", cuda=40), stage.model("swan", cuda=60)
    stage.ask(goose)
    stage.clock.pass_time(5)
    stage.ask(swan)
    assert stage.state(swan) is State.QUEUED
    stage.supervisor.set_ceilings({"cuda:0": 200})
    assert stage.state(swan) is State.LOADING
    stage.settle_all()
    stage.close()


def test_ceilings_change_in_place_for_all_who_hold_them_and_a_new_device_counts():
    stage = Stage(ONE)
    ceilings = stage.supervisor.view.ceilings
    stage.supervisor.set_ceilings({"cuda:0": 50, "cuda:1": 70})
    assert ceilings == {"cuda:0": 50, "cpu": 100, "cuda:1": 70}
    assert stage.supervisor.view.memory()["cuda:1"].free == 70
    stage.close()


class PingedEngine(ScriptedEngine):
    """Says when it has been asked for the first time whether it lives."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.pinged = asyncio.Event()

    async def ping(self) -> None:
        self.pinged.set()
        await super().ping()


async def test_an_engine_that_is_watched_already_must_answer_within_the_new_deadline():
    engine, bus, died = PingedEngine(GOOSE), EventBus(), asyncio.Event()
    bugs: list[BaseException] = []

    def note(event: Event) -> None:
        if isinstance(event, ModelMoved) and event.before == State.READY:
            died.set()

    supervisor = supervisor_over(lambda _: engine, bus, bugs, ping_interval=0.01, ping_deadline=3600)
    with bus.subscribed(note):
        async with supervisor.lease(GOOSE, owner="test"), asyncio.timeout(5):
            await engine.pinged.wait()
            change(supervisor, ping_deadline=0.01)
            engine.pong.clear()
            await died.wait()
    assert "did not answer for 0.01 s" in (supervisor.status(GOOSE).error or "")
    await supervisor.close(0.0)
    assert bugs == []
