"""The host's memory as /proc and /sys tell it: made-up trees, and the machine that runs this."""

from pathlib import Path

import psutil
import pytest

from cortexd.memory.host import Host
from cortexd.memory.pressure import Pressure
from cortexd.memory.room import Room
from tests.memory.trees import GB, V1, group_v1, group_v2, member_of, meminfo, psi, write

K = 1024 * 10**6  # bytes that are whole kilobytes


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path):
    host = Host(write(tmp_path, meminfo(16 * K, 10 * K)))
    assert (host.total(), host.available()) == (16 * K, 10 * K)


def test_the_tightest_group_on_the_way_up_is_the_limit(tmp_path: Path):
    top = "sys/fs/cgroup"
    tree = meminfo(16 * K, 10 * K) | member_of("0::/system.slice/cortexd.service/workers")
    tree |= group_v2(f"{top}/system.slice", "8000000000", 3 * GB)
    tree |= group_v2(f"{top}/system.slice/cortexd.service", "9000000000", 1 * GB)
    tree |= group_v2(f"{top}/system.slice/cortexd.service/workers", "max", 1 * GB)
    tree |= group_v2(f"{top}/other.slice", "1000", 0)
    assert Host(write(tmp_path, tree)).room() == Room(8 * GB, 5 * GB)


def test_the_page_cache_of_a_group_counts_as_available(tmp_path: Path):
    tree = (
        meminfo(16 * K, 10 * K) | member_of("0::/a") | group_v2("sys/fs/cgroup/a", "4000000000", 3 * GB, cache=2 * GB)
    )
    assert Host(write(tmp_path, tree)).available() == 3 * GB


def test_where_allocations_begin_to_wait_the_memory_ends(tmp_path: Path):
    tree = meminfo(16 * K, 10 * K) | member_of("0::/a") | group_v2("sys/fs/cgroup/a", "4000000000", high="3000000000")
    assert Host(write(tmp_path, tree)).room() == Room(3 * GB, 3 * GB)


def test_a_group_above_its_limit_has_nothing_left(tmp_path: Path):
    tree = meminfo(16 * K, 10 * K) | member_of("0::/a") | group_v2("sys/fs/cgroup/a", "1000000000", 2 * GB)
    assert Host(write(tmp_path, tree)).room() == Room(1 * GB, 0)


def test_groups_of_the_first_version_are_read_too_and_a_second_hierarchy_beside_them_is_not(tmp_path: Path):
    both = f"{V1}\n29 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    tree = meminfo(16 * K, 10 * K) | member_of("4:memory:/jobs/a\n1:cpu:/\n0::/x", both)
    tree |= group_v1("sys/fs/cgroup/memory", 9223372036854771712)
    tree |= group_v1("sys/fs/cgroup/memory/jobs", 6 * GB, 5 * GB, cache=1 * GB)
    tree |= group_v1("sys/fs/cgroup/memory/jobs/a", 9223372036854771712, 1 * GB)
    tree |= group_v2("sys/fs/cgroup/unified/x", "5", 0)
    assert Host(write(tmp_path, tree)).room() == Room(6 * GB, 2 * GB)


@pytest.mark.parametrize(
    ("path", "top"),
    [("/docker/abc", "/docker/abc"), ("/", "/"), ("/docker/abc", "/docker/other"), ("/../outside", "/")],
)
def test_a_container_finds_its_own_group_where_it_is_mounted(path: str, top: str, tmp_path: Path):
    mount = f"29 23 0:26 {top} /sys/fs/cgroup ro - cgroup2 cgroup rw"
    tree = meminfo(16 * K, 10 * K) | member_of(f"0::{path}", mount) | group_v2("sys/fs/cgroup", "2000000000", 1 * GB)
    assert Host(write(tmp_path, tree)).room() == Room(2 * GB, 1 * GB)


def test_limits_may_change_while_we_run(tmp_path: Path):
    tree = meminfo(16 * K, 10 * K) | member_of("0::/a") | group_v2("sys/fs/cgroup/a", "max")
    host = Host(write(tmp_path, tree))
    before = host.total()
    write(tmp_path, group_v2("sys/fs/cgroup/a", "1000000000"))
    assert (before, host.total()) == (16 * K, 1 * GB)


def test_pressure_is_the_worse_of_machine_and_group(tmp_path: Path):
    tree = member_of("0::/a") | {"proc/pressure/memory": psi(3, 2), "sys/fs/cgroup/a/memory.pressure": psi(30, 1)}
    assert Host(write(tmp_path, tree)).pressure() == Pressure(30, 2)


def test_pressure_that_only_one_of_them_measures_is_told(tmp_path: Path):
    assert Host(write(tmp_path, {"proc/pressure/memory": psi(3, 2)})).pressure() == Pressure(3, 2)


def test_pressure_that_is_not_measured_is_none(tmp_path: Path):
    assert Host(tmp_path).pressure() is None


def test_kills_are_those_of_our_group_where_it_counts_them(tmp_path: Path):
    tree = member_of("0::/a/b") | {"proc/vmstat": "nr_free_pages 5\noom_kill 9\n"}
    machine = Host(write(tmp_path / "machine", tree)).oom_kills()
    tree |= {"sys/fs/cgroup/a/memory.events": "low 0\noom 4\noom_kill 2\n"}
    assert (machine, Host(write(tmp_path / "group", tree)).oom_kills()) == (9, 2)


def test_kills_of_the_first_version_are_counted_elsewhere(tmp_path: Path):
    file = "sys/fs/cgroup/memory/a/memory.oom_control"
    tree = member_of("4:memory:/a", V1) | {file: "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"}
    assert Host(write(tmp_path, tree)).oom_kills() == 3


def test_this_machine_can_be_read():
    host = Host()
    room = host.room()
    assert 0 < room.available < room.total <= psutil.virtual_memory().total
    assert host.oom_kills() >= 0
