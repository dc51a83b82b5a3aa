"""The synthetic transaction: through the real queue, seen by nobody, missed when the queue stands still."""

import logging

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import Engine
from cortexd.errors import Unavailable
from cortexd.events import Event, EventBus
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.liveness import SYNTHETIC, Liveness, NullEngine
from cortexd.lifecycle.supervisor import Supervisor
from tests.fakes import supervisor_over
from tests.lifecycle.scripted_engine import ScriptedEngine

GOOSE = ModelSpec(name="goose", source="file", path="/goose.pth", weights="1")


class House:
    def __init__(self) -> None:
        self.events: list[Event] = []
        bus = EventBus()
        self._listening = bus.subscribed(self.events.append)
        self._listening.__enter__()
        self.bugs: list[BaseException] = []
        self.slow = ScriptedEngine(GOOSE)
        self.slow.loading.clear()
        self.supervisor: Supervisor = supervisor_over(
            self._make,
            bus,
            self.bugs,
            ceilings={"cpu": 10},
            estimate=lambda spec: {"cpu": int(spec != SYNTHETIC)},
            parallel_loads=1,
        )

    def _make(self, spec: ModelSpec) -> Engine:
        return NullEngine() if spec == SYNTHETIC else self.slow


async def test_it_passes_while_another_model_loads_for_ever_and_leaves_no_trace():
    house = House()
    waiting = house.supervisor.lease(GOOSE, owner="test")
    before = len(house.events)
    liveness = Liveness(house.supervisor)
    for _ in range(4):
        await liveness.transact()
    assert liveness.alive
    assert len(house.events) == before
    waiting.release()
    await house.supervisor.close(0.0)


async def test_three_missed_in_a_row_are_an_alarm_with_the_wait_graph(caplog: pytest.LogCaptureFixture):
    house = House()
    waiting = house.supervisor.lease(GOOSE, owner="request 1")
    liveness = Liveness(house.supervisor, patience=0.01)
    house.supervisor.transitions.probed = lambda model: None  # nothing becomes ready any more
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert liveness.alive
            await liveness.transact()
    assert not liveness.alive
    assert "request 1 wait for goose" in caplog.text
    waiting.release()
    await house.supervisor.close(0.0)


async def test_one_that_passes_ends_the_alarm():
    house = House()
    liveness = Liveness(house.supervisor)
    lease, house.supervisor.lease = house.supervisor.lease, refuse
    for _ in range(3):
        await liveness.transact()
    assert not liveness.alive
    house.supervisor.lease = lease
    await liveness.transact()
    assert liveness.alive
    await house.supervisor.close(0.0)


def refuse(*_: object, **__: object) -> Lease:
    raise Unavailable
