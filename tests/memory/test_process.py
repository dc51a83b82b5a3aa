"""What processes hold: shared pages once, ended ones nothing, GPUs beside the host."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

from cortexd.memory.nvidia import Gpus
from cortexd.memory.process import Usage, measure
from tests.memory.fake_nvml import FakeNvml
from tests.memory.trees import process, write

KB = 1024


def test_processes_are_summed_by_their_parts_of_shared_pages(tmp_path: Path):
    root = write(tmp_path, process(7, pss=300, file=100) | process(8, pss=200, file=50))
    assert measure([7, 8], root=root) == Usage({"cpu": 500 * KB}, 150 * KB)


def test_where_the_parts_are_closed_to_us_all_resident_pages_count(tmp_path: Path):
    root = write(tmp_path, process(7, pss=None, file=8, rss_pages=3))
    assert measure([7], root=root) == Usage({"cpu": 3 * mmap.PAGESIZE}, 8 * KB)


def test_a_process_that_has_ended_holds_nothing(tmp_path: Path):
    root = write(tmp_path, process(7, pss=300))
    assert measure([7, 8], root=root).resident == {"cpu": 300 * KB}
    assert measure([8], root=root) == Usage({"cpu": 0})


def test_a_real_process_that_waits_to_be_buried_holds_nothing():
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()  # it has closed its end: it ends, and nobody has asked how
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert measure([child.pid]).resident == {"cpu": 0}


def test_gpus_are_named_only_where_something_is_held(tmp_path: Path):
    gpus = Gpus(FakeNvml((100, 10, {7: 40, 8: 5, 9: 30}), (100, 100, {9: 1})))
    usage = measure([7, 8], gpus, write(tmp_path, process(7, pss=1)))
    assert usage.resident == {"cpu": 1 * KB, "cuda:0": 45}


def test_memory_that_this_process_takes_is_seen_and_pages_of_files_are_told_apart(tmp_path: Path):
    size, file = 32 * 2**20, tmp_path / "weights"
    file.write_bytes(bytes(size))
    before = measure([os.getpid()])
    with mmap.mmap(-1, size) as private:  # pages that no allocator has had before
        private.write(b"x" * size)
        taken = measure([os.getpid()])
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), size, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0  # every page touched
        both = measure([os.getpid()])
    assert taken.resident["cpu"] - before.resident["cpu"] >= 0.9 * size
    assert both.mapped - taken.mapped >= 0.9 * size
