"""Files of sessions: found by what is in them, whole or not there."""

import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from cortexd import session_files
from cortexd.session_files import SessionHead, SessionKey, found, place_of, read_head, read_state

HEAD = SessionHead(
    key=SessionKey("ada", "../../etc/passwd"),
    model="goose",
    turns=3,
    start="ada\n",
    pieces=[array("I", [1, 2, 3]).tobytes(), array("I", [4]).tobytes()],
)


def write(root: Path, head: SessionHead = HEAD, state: bytes = b"state") -> Path:
    path = place_of(root, "weights", head.key)
    session_files.write(path, head, [memoryview(state[:2]), memoryview(state[2:])])
    return path


def test_what_is_written_is_found_again_below_its_directory_alone(tmp_path: Path):
    path = write(tmp_path)
    assert path.is_relative_to(tmp_path)
    assert path.parent.parent == tmp_path
    assert (read_head(path), read_state(path), HEAD.tokens) == (HEAD, b"state", 4)
    (file,) = found(tmp_path)
    assert (file.path, file.head, file.bytes) == (path, HEAD, path.stat().st_size)
    assert path.stat().st_mode & 0o077 == path.parent.stat().st_mode & 0o077 == 0


def test_names_that_run_together_are_different_sessions(tmp_path: Path):
    keys = [SessionKey("a", "bc"), SessionKey("ab", "c"), SessionKey("", "abc"), SessionKey("abc", "")]
    assert len({place_of(tmp_path, "weights", key) for key in keys}) == 4
    assert place_of(tmp_path, "weights", keys[0]) != place_of(tmp_path, "others", keys[0])


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path):
    write(tmp_path)
    path = write(tmp_path, state=b"another")
    assert read_state(path) == b"another"
    assert len(list(path.parent.iterdir())) == 1


def test_a_damaged_file_is_no_state_and_one_that_is_no_session_is_not_found(tmp_path: Path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        read_state(path)
    for content in (b"", b"x" * 100, path.read_bytes()[:30]):
        path.write_bytes(content)
        assert not list(found(tmp_path))
        with pytest.raises(ValueError, match=r"session|damaged"):
            read_state(path)


def test_what_a_dead_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path):
    place = write(tmp_path).parent
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    living, dead = place / f"a.{child.pid}.part", place / f"b.{2**22 + 1}.part"
    for path in (living, dead):
        path.touch()
    session_files.sweep(tmp_path)
    assert (living.exists(), dead.exists()) == (True, False)
    child.communicate(b"\n")
