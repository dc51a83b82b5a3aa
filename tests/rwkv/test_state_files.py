"""States on the disk: whole or not there, within their room, known again by the next worker."""

import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cortexd.rwkv.prefix_cache import Prefix
from cortexd.rwkv.state import SavedState
from cortexd.rwkv.state_files import StateFiles

PLENTY = 10**9
SIZE = 4 * (2 * 8 + 16)  # bytes of a state here
Open = Callable[..., StateFiles]


def state(number: int) -> SavedState:
    return SavedState(*(torch.full(size, float(number)) for size in ((2, 4), (2, 4), (2, 2, 2, 2))))


def unpack(data: bytes) -> SavedState:
    if len(data) != SIZE:
        raise ValueError("no state")
    numbers = torch.frombuffer(bytearray(data), dtype=torch.float32)
    return SavedState(numbers[:8].view(2, 4), numbers[8:16].view(2, 4), numbers[16:].view(2, 2, 2, 2))


def prefix(token: int, length: int = 100, start: str = "") -> Prefix:
    return Prefix(start, (array("I", [token] * length).tobytes(), array("I", [9]).tobytes()))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    made: list[StateFiles] = []

    def make(identity: str = "goose", limit: int = PLENTY) -> StateFiles:
        files = StateFiles(tmp_path, identity, unpack)
        files.limit(limit)
        made.append(files)
        return files

    yield make
    for files in made:
        files.close()


def kept(root: Path) -> list[Path]:
    return sorted(root.rglob("*.state"))


def written(opened: Open, *prefixes: Prefix, **changes: object) -> None:
    files = opened(**changes)
    for number, each in enumerate(prefixes):
        files.write(each, state(number))
    files.close()


def test_the_next_worker_knows_what_is_there_and_reads_the_same_bits(opened: Open):
    written(opened, prefix(1), prefix(2, start="poet"))
    files = opened()
    assert set(files.known()) == {prefix(1), prefix(2, start="poet")}
    found = files.read(prefix(2, start="poet"))
    assert found is not None
    assert found.pack() == state(1).pack()
    assert files.read(prefix(2)) is None


def test_files_of_other_weights_are_not_seen(opened: Open):
    written(opened, prefix(1))
    files = opened(identity="swan")
    assert files.known() == []
    assert files.read(prefix(1)) is None


@pytest.mark.parametrize("at", [0, 17, 30, -1])
def test_a_damaged_file_is_a_miss_and_is_removed(opened: Open, tmp_path: Path, at: int):
    written(opened, prefix(1))
    (path,) = kept(tmp_path)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert opened().read(prefix(1)) is None
    assert not kept(tmp_path)


@pytest.mark.parametrize("length", [0, 5, 100, 500])
def test_half_a_file_is_a_miss_and_is_removed(opened: Open, tmp_path: Path, length: int):
    written(opened, prefix(1))
    (path,) = kept(tmp_path)
    os.truncate(path, length)
    assert opened().read(prefix(1)) is None
    assert not kept(tmp_path)


def test_what_no_head_can_be_read_of_is_removed_when_it_is_seen(opened: Open, tmp_path: Path):
    written(opened, prefix(1), prefix(2))
    first, second = kept(tmp_path)
    first.write_bytes(b"cortexd state 1\n" + b"\xff" * 40)
    second.rename(second.with_name("7-other.state"))
    assert opened().known() == []
    assert not kept(tmp_path)


def test_what_a_killed_worker_left_unfinished_is_removed_and_that_of_a_living_one_stays(opened: Open, tmp_path: Path):
    written(opened, prefix(1))
    (path,) = kept(tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    left, living = (path.with_suffix(f".{pid}.part") for pid in (dead.pid, os.getpid()))
    left.write_bytes(b"half")
    living.write_bytes(b"half")
    assert opened().known() == [prefix(1)]
    assert not left.exists()
    assert living.exists()


def test_no_more_is_written_than_there_is_room_for_and_what_saves_least_goes(opened: Open, tmp_path: Path):
    written(opened, prefix(1, 400), prefix(2, 10), prefix(3, 400))
    one = max(path.stat().st_size for path in kept(tmp_path))
    for path in kept(tmp_path):
        os.utime(path, (1e9, 1e9))
    written(opened, prefix(4, 400), limit=3 * one)
    assert sum(path.stat().st_size for path in kept(tmp_path)) == 3 * one
    assert opened().read(prefix(2, 10)) is None
    assert opened().read(prefix(4, 400)) is not None


def test_what_was_used_last_stays_of_those_that_save_as_much(opened: Open, tmp_path: Path):
    written(opened, prefix(1), prefix(2), prefix(3))
    for age, path in enumerate(kept(tmp_path)):
        os.utime(path, (1e9 + age, 1e9 + age))
    (one,) = {path.stat().st_size for path in kept(tmp_path)}
    files = opened()
    oldest = next(each for each in (prefix(1), prefix(2), prefix(3)) if kept(tmp_path)[0] == files._path(each))
    files.touch(oldest)
    files.limit(one)
    files.close()
    assert opened().known() == [oldest]


def test_the_room_is_for_all_models_together(opened: Open, tmp_path: Path):
    written(opened, prefix(1))
    one = kept(tmp_path)[0].stat().st_size
    os.utime(kept(tmp_path)[0], (1e9, 1e9))
    written(opened, prefix(2), identity="swan", limit=one)
    assert opened().known() == []
    assert opened(identity="swan").known() == [prefix(2)]


def test_without_room_nothing_is_written_and_what_is_there_goes(opened: Open, tmp_path: Path):
    written(opened, prefix(1))
    written(opened, prefix(2), limit=0)
    assert not kept(tmp_path)


def test_forgotten_states_are_gone_and_none_comes_after(opened: Open, tmp_path: Path):
    files = opened()
    for number in range(50):
        files.write(prefix(number + 1), state(number))
    files.forget()
    files.close()
    assert not kept(tmp_path)


def test_a_directory_that_was_removed_is_made_again(opened: Open, tmp_path: Path):
    written(opened, prefix(1))
    for path in kept(tmp_path):
        path.unlink()
        path.parent.rmdir()
    written(opened, prefix(2))
    assert opened().known() == [prefix(2)]
