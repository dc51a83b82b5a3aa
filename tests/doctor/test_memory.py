"""Memory that there is, and models that it is too little for."""

from pathlib import Path

from cortexd.catalogue.spec import ModelSpec
from cortexd.doctor.memory import budget, memory, swap
from tests.doctor.made_up import levels, only, place
from tests.memory.trees import GB, group_v2, member_of, meminfo, write

SWAP = "SwapTotal: 8000000 kB\nSwapFree: {} kB\n"


def test_the_limit_of_a_control_group_is_named(tmp_path: Path):
    group = group_v2("sys/fs/cgroup/box", str(4 * GB), GB)
    write(tmp_path, meminfo(64 * GB, 50 * GB) | member_of("0::/box") | group)
    found, without_swap = memory(place(tmp_path))
    assert found.says.startswith("4.0 GB, of which 3.0 GB are available")
    assert "control group" in found.says
    assert found.says.endswith("sys/fs/cgroup/box.")
    assert without_swap.says == "There is no swap."


def test_without_a_limit_the_machine_counts_and_little_left_is_a_warning(tmp_path: Path):
    write(tmp_path, meminfo(64 * GB, GB // 2))
    found, _ = memory(place(tmp_path))
    assert (found.level, "control group" in found.says) == ("warning", False)


def test_processes_that_were_killed_are_told(tmp_path: Path):
    write(tmp_path, meminfo(64 * GB, 50 * GB) | {"proc/vmstat": "oom_kill 3\n"})
    *_, found = memory(place(tmp_path))
    assert (found.check, found.level) == ("killed for memory", "note")
    assert "3 processes" in found.says


def test_swap_that_is_used_is_a_warning(tmp_path: Path):
    write(tmp_path, {"proc/meminfo": SWAP.format(7_000_000)})
    assert swap(place(tmp_path)).level == "ok"
    write(tmp_path, {"proc/meminfo": SWAP.format(1_000_000)})
    assert swap(place(tmp_path)).level == "warning"


def test_a_model_that_can_never_fit_is_told_with_the_arithmetic():
    large = ModelSpec(name="large", source="file")
    lying = ModelSpec(name="lying", source="directory")
    damaged = ModelSpec(name="damaged", source="file", problem="It is damaged.")
    fits = ModelSpec(name="fits", source="file")
    needed = {"large": 20 * GB, "lying": 11 * GB, "damaged": 99 * GB, "fits": 10 * GB}
    found = list(budget([large, lying, damaged, fits], {"cpu": 10 * GB}, lambda spec: {"cpu": needed[spec.name]}))
    assert levels(found) == ["ok", "problem", "warning"]
    assert found[1].says == "large needs 20.0 GB on cpu, and the budget there is 10.0 GB: it can never be loaded."


def test_a_device_without_a_budget_says_nothing_of_a_model():
    spec = ModelSpec(name="goose", source="file")
    assert only(budget([spec], {"cpu": GB}, lambda _: {"cuda:0": 9 * GB, "cpu": 0})).level == "ok"
