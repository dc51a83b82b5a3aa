"""GPUs through their driver's library, which may be absent, mute or half blind."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from cortexd.memory.nvidia import Gpus, installed_gpus
from cortexd.memory.room import Room
from tests.memory.fake_nvml import FakeNvml, NVMLError


@pytest.fixture
def undecided() -> Iterator[None]:
    installed_gpus.cache_clear()
    yield
    installed_gpus.cache_clear()


def test_every_gpu_has_its_room():
    assert Gpus(FakeNvml((100, 10, {}), (200, 150, {}))).rooms() == {"cuda:0": Room(100, 10), "cuda:1": Room(200, 150)}


def test_a_gpu_that_does_not_say_is_left_out_and_the_next_keeps_its_number():
    gpus = Gpus(FakeNvml(None, (200, 150, {7: 50})))
    assert (gpus.rooms(), gpus.held([7])) == ({"cuda:1": Room(200, 150)}, {"cuda:1": 50})


def test_a_gpu_that_is_lost_is_left_out_from_then_on():
    nvml = FakeNvml((100, 10, {}))
    gpus = Gpus(nvml)
    seen = gpus.rooms()
    nvml.gpus[0] = None
    assert (list(seen), gpus.rooms()) == (["cuda:0"], {})


def test_a_process_whose_memory_is_not_told_counts_nothing():
    assert Gpus(FakeNvml((100, 10, {7: None, 8: 5}))).held([7, 8]) == {"cuda:0": 5}


@pytest.mark.parametrize(
    ("visible", "totals"),
    [
        ("1", [200]),
        ("2, 0", [300, 100]),
        ("GPU-1,0", [200, 100]),
        ("0,9,1", [100]),
        ("", []),
        ("-1", []),
        (None, [100, 200, 300]),
    ],
)
def test_gpus_are_those_that_cuda_is_told_to_show(visible: str | None, totals: list[int]):
    gpus = Gpus(FakeNvml((100, 0, {}), (200, 0, {}), (300, 0, {})), visible)
    assert gpus.rooms() == {f"cuda:{index}": Room(total, 0) for index, total in enumerate(totals)}


@pytest.mark.usefixtures("undecided")
def test_without_the_library_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not installed_gpus()


class Module(ModuleType, FakeNvml):
    """What `import pynvml` gives."""

    def __init__(self, *, driver: bool) -> None:
        ModuleType.__init__(self, "pynvml")
        FakeNvml.__init__(self, (100, 10, {}))
        self.driver, self.asked = driver, 0

    def nvmlInit(self) -> None:
        self.asked += 1
        if not self.driver:
            raise NVMLError("NVML Shared Library Not Found")


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize(("driver", "devices"), [(True, ["cuda:0"]), (False, [])])
def test_the_driver_is_asked_once(driver: bool, devices: list[str], monkeypatch: pytest.MonkeyPatch):
    module = Module(driver=driver)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [list(installed_gpus().rooms()) for _ in range(2)] == [devices, devices]
    assert module.asked == 1
