"""Folders that can be written to, and those that cannot."""

import os
from pathlib import Path

from cortexd.doctor.directories import directories, directory, nearest, runnable, runtime, temporary
from tests.doctor.made_up import as_nobody, levels, only, place


def test_what_can_be_made_is_as_good_as_what_is_there(tmp_path: Path):
    (tmp_path / "there").mkdir()
    assert directory("data directory", tmp_path / "there").level == "ok"
    assert "not made yet" in directory("data directory", tmp_path / "there" / "a" / "b").says
    assert not (tmp_path / "there" / "a").exists()


def test_what_cannot_be_made_is_told_with_whose_the_folder_above_is():
    with as_nobody() as closed:
        found = directory("data directory", closed / "cortexd")
        assert runtime(closed / "cortexd").level == "note"
    assert (found.level, f"asked by user {65534 if os.geteuid() == 0 else os.geteuid()}" in found.says) == (
        "problem",
        True,
    )


def test_a_file_in_the_place_of_a_folder_is_to_be_moved_away(tmp_path: Path):
    (tmp_path / "cortexd").write_text("")
    found = directory("cache directory", tmp_path / "cortexd" / "states")
    assert (found.level, found.advice) == ("problem", f"Move {tmp_path / 'cortexd'} away.")


def test_little_space_is_a_warning_and_none_a_problem(tmp_path: Path):
    assert directory("data directory", tmp_path, free=10**9).level == "warning"
    assert directory("data directory", tmp_path, free=10**6).level == "problem"


def test_a_file_system_from_which_nothing_may_be_run_is_a_warning(tmp_path: Path):
    assert (
        only(runnable("cache directory", tmp_path / "kernels", lambda _: os.ST_NOEXEC | os.ST_NOSUID)).level
        == "warning"
    )
    assert not list(runnable("cache directory", tmp_path, lambda _: os.ST_NOSUID))


def test_the_real_flags_are_read(tmp_path: Path):
    proc = Path("/proc")  # which is mounted noexec nearly everywhere
    assert bool(list(runnable("cache directory", proc))) == bool(os.statvfs(proc).f_flag & os.ST_NOEXEC)


def test_temporary_files_need_a_place(tmp_path: Path):
    assert temporary(place(tmp_path, TMPDIR=str(tmp_path))).level == "ok"
    assert temporary(place(tmp_path, TMPDIR=str(tmp_path / "gone"))).level == "warning"


def test_all_of_them_are_looked_at_and_none_is_made(tmp_path: Path):
    assert set(levels(directories(place(tmp_path)))) <= {"ok", "warning"}
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_folder_is_found_below_one_that_is_closed():
    with as_nobody() as folder:
        assert nearest(folder / "locked" / "share" / "cortexd") == folder / "locked"
