"""What the system lets a process have."""

import resource
from pathlib import Path

from cortexd.doctor.limits import address_space, cores, oom_score, open_files
from tests.doctor.made_up import only, place
from tests.memory.trees import member_of, write


def test_few_open_files_are_a_warning():
    assert [open_files(limit).level for limit in (256, 1024, resource.RLIM_INFINITY)] == ["warning", "ok", "ok"]


def test_a_limit_of_address_space_is_a_warning_and_none_is_not_told():
    assert only(address_space(8 * 10**9)).level == "warning"
    assert not list(address_space(resource.RLIM_INFINITY))


def test_cores_that_are_there_and_those_that_may_be_used(tmp_path: Path):
    assert cores(place(tmp_path), 4, 4).says == "All 4 may be used."
    assert cores(place(tmp_path), 4, 16).says == "4 of 16 may be used."


def test_a_share_of_time_that_is_less_than_the_cores_is_a_warning(tmp_path: Path):
    write(tmp_path, member_of("0::/box") | {"sys/fs/cgroup/box/cpu.max": "250000 100000\n"})
    found = cores(place(tmp_path), 16, 16)
    assert (found.level, "threads = 2" in found.advice) == ("warning", True)
    write(tmp_path, {"sys/fs/cgroup/box/cpu.max": "max 100000\n", "sys/fs/cgroup/cpu.max": "1600000 100000\n"})
    assert cores(place(tmp_path), 16, 16).level == "ok"


def test_the_oom_score_is_looked_at_and_not_changed(tmp_path: Path):
    write(tmp_path, {"proc/self/oom_score_adj": "200\n"})
    assert oom_score(place(tmp_path)).says == "It is 200, and workers can raise theirs."
    assert (tmp_path / "proc/self/oom_score_adj").read_text() == "200\n"


def test_an_oom_score_that_cannot_be_changed_is_a_warning(tmp_path: Path):
    assert oom_score(place(tmp_path)).level == "warning"


def test_those_of_this_process_are_read():
    root = place(Path("/"))
    assert oom_score(root).level == "ok"
    assert "may be used" in cores(root).says
    assert "at once" in open_files().says
