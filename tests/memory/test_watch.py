"""The watch reads beside the loop, tells whom it concerns, and outlives what it cannot read."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cortexd.events import Event, EventBus, MemoryWarning
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.memory.room import Room
from cortexd.memory.watch import MemoryWatch
from tests.memory.fake_nvml import FakeNvml
from tests.memory.trees import meminfo, psi, write

MB = 1024 * 1000


class Machine:
    """A host of 100 MB and a GPU of 1000 bytes, watched; `told` is what was told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nvml = FakeNvml((1000, 1000, {}))
        self.ours: dict[str, int] = {}
        self.mapped = 0
        self.ceilings = {"cpu": 75 * MB, "cuda:0": 900}
        self.told: list[tuple[str, str, int]] = []
        self.available(100)
        self.bus = EventBus()
        self.watch = MemoryWatch(
            Host(root),
            Gpus(self.nvml),
            self.ceilings,
            self.bus,
            ours=lambda: self.ours,
            mapped=lambda: self.mapped,
            on_foreign=self._tell("foreign"),
            on_pressure=self._tell("pressure"),
            sample_s=0,
        )

    def available(self, megabytes: int) -> None:
        write(self.root, meminfo(100 * MB, megabytes * MB))

    def _tell(self, what: str) -> Callable[[str, int], None]:
        return lambda device, count: self.told.append((what, device, count))

    def warned(self, event: Event) -> None:
        assert isinstance(event, MemoryWarning)
        self.told.append(("warning", event.device, event.used))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    with machine.bus.subscribed(machine.warned):
        yield machine


async def test_what_our_models_hold_is_not_foreign(machine: Machine):
    machine.available(50)
    machine.ours = {"cpu": 50 * MB}
    await machine.watch.look()
    assert machine.told == []


async def test_what_others_hold_beyond_their_part_is(machine: Machine):
    machine.available(50)
    machine.nvml.gpus[0] = (1000, 500, {})
    machine.ours = {"cuda:0": 100}
    await machine.watch.look()
    assert machine.told == [("foreign", "cpu", 25 * MB), ("foreign", "cuda:0", 300)]


async def test_mapped_weights_hide_nobody(machine: Machine):
    machine.available(60)  # to the kernel the weights are page cache: the 40 that are gone are others'
    machine.ours, machine.mapped = {"cpu": 40 * MB}, 40 * MB
    await machine.watch.look()
    assert machine.told == [("foreign", "cpu", 15 * MB)]


async def test_a_warning_goes_to_the_bus_and_pressure_to_whoever_makes_room(machine: Machine):
    write(machine.root, {"proc/pressure/memory": psi(50, 0)})
    machine.ours = {"cuda:0": 800}
    machine.nvml.gpus[0] = (1000, 200, {})
    await machine.watch.look()
    assert machine.told == [("warning", "cuda:0", 800), ("warning", "cpu", 0), ("pressure", "cpu", int(0.05 * 75 * MB))]


async def test_another_ceiling_counts_from_the_next_look(machine: Machine):
    machine.available(50)
    await machine.watch.look()
    machine.ceilings["cpu"] = 100 * MB
    await machine.watch.look()
    assert machine.told == [("foreign", "cpu", 25 * MB), ("foreign", "cpu", 50 * MB)]


async def test_a_device_without_a_ceiling_is_nobodys_concern(machine: Machine):
    del machine.ceilings["cuda:0"]
    machine.nvml.gpus[0] = (1000, 0, {})
    await machine.watch.look()
    assert machine.told == []


async def test_the_log_is_told_once_of_each_row_of_failures(machine: Machine, caplog: pytest.LogCaptureFixture):
    file = machine.root / "proc/meminfo"
    with caplog.at_level(logging.WARNING, "cortexd.memory"):
        for readable in (False, False, True, False):
            machine.available(50) if readable else file.write_text("nonsense")
            await machine.watch.look()
    assert [record.message for record in caplog.records] == ["the memory cannot be read: KeyError('MemTotal')"] * 2
    assert machine.told == [("foreign", "cpu", 25 * MB)]


class SlowHost(Host):
    """Reads on when it is told to."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.go, self.reads, self.thread = threading.Event(), 0, threading.current_thread()

    def room(self) -> Room:
        self.thread = threading.current_thread()
        self.go.wait()
        self.reads += 1
        return Room(100, 0)


async def test_the_task_looks_again_and_again_and_the_loop_never_waits_for_it():
    host, twice = SlowHost(), asyncio.Event()

    def ours() -> dict[str, int]:
        if host.reads == 2:
            twice.set()
        return {}

    told: list[int] = []

    def tell(device: str, count: int) -> None:
        told.append(count)

    watch = MemoryWatch(
        host, Gpus(None), {"cpu": 100}, EventBus(), ours=ours, on_foreign=tell, on_pressure=tell, sample_s=0
    )
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    assert (host.reads, told) == (0, [])  # the loop runs on though the reading is stuck
    host.go.set()
    await asyncio.wait_for(twice.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert host.thread is not threading.main_thread()
    assert told == [100]
