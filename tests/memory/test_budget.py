"""Ceilings, and what others use of them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.config import Memory
from cortexd.errors import InvalidConfiguration
from cortexd.memory.budget import ceilings, foreign, parked_budget
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from tests.memory.fake_nvml import FakeNvml
from tests.memory.trees import group_v2, member_of, meminfo, write

GPUS = Gpus(FakeNvml((1000, 900, {}), (2000, 1900, {})))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    tree = meminfo(1024 * 10**6, 1024 * 10**5) | member_of("0::/a") | group_v2("sys/fs/cgroup/a", "1000000")
    return Host(write(tmp_path, tree))


def test_auto_leaves_room_for_others_within_what_we_may_use(host: Host):
    assert ceilings(Memory(), host, GPUS) == {"cpu": 750_000, "cuda:0": 900, "cuda:1": 1800}
    assert parked_budget(Memory(), host) == 100_000


def test_what_is_written_counts_and_a_percentage_is_of_each_gpu(host: Host):
    memory = Memory(cpu="200 KB", cuda="50 %", parked="0")
    assert ceilings(memory, host, GPUS) == {"cpu": 200_000, "cuda:0": 500, "cuda:1": 1000}
    assert parked_budget(memory, host) == 0


def test_a_ceiling_is_never_above_what_there_is(host: Host):
    assert ceilings(Memory(cpu="64 GB", cuda="1500"), host, GPUS) == {"cpu": 1_000_000, "cuda:0": 1000, "cuda:1": 1500}


def test_without_gpus_there_is_the_host_alone(host: Host):
    assert list(ceilings(Memory(), host, Gpus(None))) == ["cpu"]


def test_nonsense_is_refused_by_name(host: Host):
    with pytest.raises(InvalidConfiguration, match=r"^memory\.parked: 'much' is not a size"):
        parked_budget(Memory(parked="much"), host)


@pytest.mark.parametrize(
    ("available", "ours", "expected"),
    [
        (100, 0, 0),  # nobody uses anything
        (70, 0, 5),  # others use 30, of which 25 fit beside our ceiling
        (30, 40, 5),  # … and our own 40 change nothing about it
        (75, 0, 0),  # just fits beside
        (60, 80, 0),  # ours is measured before it was given back: nobody else has less than nothing
        (0, 0, 75),  # all of it
    ],
)
def test_others_use_of_our_ceiling_what_does_not_fit_beside_it(available: int, ours: int, expected: int):
    assert foreign(100, available, ours, 75) == expected


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_what_is_left_of_a_ceiling_is_there(available: int, ours: int, more: int, ceiling: int):
    total = max(available + ours, ceiling, more)
    left = ceiling - ours - foreign(total, available, ours, ceiling)
    assert left <= available
