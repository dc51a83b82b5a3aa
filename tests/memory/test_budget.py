"""Ceilings, and what others use of them."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.config import Cache, Memory
from cortexd.errors import InvalidConfiguration
from cortexd.memory.budget import cache_limits, ceilings, foreign, parked_budget
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.wire import CacheLimits
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


def test_states_take_a_fiftieth_of_the_ceiling_but_a_gibibyte_at_most(tmp_path: Path):
    assert cache_limits(Cache(), 10**9, tmp_path) == CacheLimits(host=10_000_000, disk=2 * 2**30, sessions=2 * 2**30)
    assert cache_limits(Cache(), 10**12, tmp_path).host == 2**29


def test_what_is_written_of_states_counts(tmp_path: Path):
    written = Cache(enabled=False, host="3 GiB", disk="1 MB", sessions="0")
    assert cache_limits(written, 10**12, tmp_path) == CacheLimits(host=3 * 2**30, disk=10**6, enabled=False)
    assert cache_limits(Cache(host="50 %"), 10**9, tmp_path).host == 500_000_000
    assert cache_limits(Cache(host="3 GiB"), 10**9, tmp_path).host == 10**9


def test_a_percentage_of_the_disk_is_of_that_which_will_hold_a_directory_that_is_not_there_yet(tmp_path: Path):
    half = cache_limits(Cache(disk="50 %"), 10**9, tmp_path / "not" / "yet").disk
    assert half == pytest.approx(shutil.disk_usage(tmp_path).total / 2, abs=1)


def test_without_a_directory_no_state_is_kept_on_the_disk():
    assert cache_limits(Cache(), 10**9, None).disk == 0


@pytest.mark.parametrize("key", ["host", "disk", "sessions"])
def test_nonsense_about_states_is_refused_by_name(tmp_path: Path, key: str):
    with pytest.raises(InvalidConfiguration, match=rf"^cache\.{key}: 'much' is not a size"):
        cache_limits(Cache(**{key: "much"}), 10**9, tmp_path)


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
