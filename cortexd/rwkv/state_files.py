"""States on the disk: one file for each, written in the background. What is damaged or missing costs reading a prompt, no more."""

import contextlib
import os
import queue
import shutil
import threading
import zlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from time import time

import msgspec

from cortexd.rwkv.prefix_cache import Prefix
from cortexd.rwkv.state import SavedState

_MAGIC = b"cortexd state 1\n"
_HEAD = Struct("<16sII")  # the magic, CRC-32 of what follows, bytes of the prefix
_ENDING, _UNFINISHED = ".state", ".part"  # the last after the id of the writing process
_MOST_WAITING = 256 * 2**20  # bytes of states in memory that wait for the disk
_SLACK = (
    16  # of so many files one more goes than must, and that part of the room is written before it is measured again
)
_Kept = tuple[str, list[bytes]]  # what is in the file of a prefix before its state


class StateFiles:
    """Implements `cortexd.rwkv.prefix_cache.Files` in `root`, a private directory for the states of all models.

    That file goes first which saves the fewest tokens for each byte and second since it was last of use, whosever it is; files of
    weights that are gone are of use to nobody, and age. A file gets its name when it is whole; a power cut may leave less of it,
    which its checksum tells. All names but the file's own are in it, so that what is there is known from the first bytes of each.
    """

    def __init__(self, root: Path, identity: str, unpack: Callable[[bytes], SavedState]) -> None:
        """`identity` is that of the weights and of the arithmetic; `unpack` raises ValueError for what is no state of theirs."""
        self._root = root
        self._directory = root / blake2b(identity.encode(), digest_size=16).hexdigest()
        self._unpack = unpack
        self._limit = 0
        self._room = 0  # bytes that may be written until the room is measured again
        self._waiting = 0  # bytes
        self._era = 0  # changes when everything is forgotten
        self._lock = threading.Lock()
        self._known: list[Prefix] = []
        self._looked = threading.Event()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="state files", daemon=True)
        self._thread.start()

    def known(self) -> list[Prefix]:
        """What was there when this was made."""
        self._looked.wait()
        known, self._known = self._known, []
        return known

    def read(self, prefix: Prefix) -> SavedState | None:
        path = self._path(prefix)
        try:
            data = path.read_bytes()
            magic, crc, length = _HEAD.unpack(data[: _HEAD.size].ljust(_HEAD.size))
            if magic != _MAGIC or zlib.crc32(memoryview(data)[_HEAD.size :]) != crc:
                raise ValueError("it is damaged")
            state = self._unpack(data[_HEAD.size + length :])
        except OSError:
            return None
        except ValueError:
            _unlink(path)
            return None
        _touch(path)
        return state

    def write(self, prefix: Prefix, state: SavedState) -> None:
        with self._lock:
            if self._waiting and self._waiting + state.nbytes > _MOST_WAITING:  # the disk is too slow for what is read
                return
            self._waiting += state.nbytes
        era = self._era
        self._jobs.put(lambda: self._write(prefix, state, era))

    def touch(self, prefix: Prefix) -> None:
        self._jobs.put(lambda: _touch(self._path(prefix)))

    def limit(self, count: int) -> None:
        self._jobs.put(lambda: self._obey(count))

    def forget(self) -> None:
        with self._lock:
            self._era += 1
        self._jobs.put(self._remove_all)

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            self._look()
        self._looked.set()
        while (job := self._jobs.get()) is not None:
            with contextlib.suppress(OSError):
                job()

    def _look(self) -> None:
        for path in self._directory.glob(f"*{_UNFINISHED}"):
            if not Path(f"/proc/{path.stem.rpartition('.')[2]}").exists():
                _unlink(path)
        for path in self._directory.glob(f"*{_ENDING}"):
            try:
                prefix = _prefix_in(path)
                if self._path(prefix) != path:
                    raise ValueError("it has another's name")
                self._known.append(prefix)
            except OSError:  # it was removed a moment ago
                pass
            except (ValueError, msgspec.MsgspecError):
                _unlink(path)

    def _write(self, prefix: Prefix, state: SavedState, era: int) -> None:
        path = self._path(prefix)
        part = path.with_suffix(f".{os.getpid()}{_UNFINISHED}")
        try:
            if path.exists():
                _touch(path)
                return
            parts = _whole(prefix, state)
            if era == self._era and self._make_room(sum(map(len, parts))):
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write_parts(part, parts)
                with self._lock:
                    if era == self._era:
                        part.rename(path)
        finally:
            _unlink(part)
            with self._lock:
                self._waiting -= state.nbytes

    def _obey(self, limit: int) -> None:
        self._limit = limit
        self._measure(0)

    def _make_room(self, size: int) -> bool:
        """Whether so many bytes may be written."""
        if size > self._room:
            self._measure(size)
        if size > self._room:
            return False
        self._room -= size
        return True

    def _measure(self, size: int) -> None:
        """Remove what is worth least until there is room for `size` bytes more."""
        files = [(_worth(path, info), path, info.st_size) for path, info in _files(self._root)]
        held = sum(size for _, _, size in files)
        room = self._limit
        if self._root.exists():  # half of what is free is for others
            room = min(room, (shutil.disk_usage(self._root).free + held) // 2)
        spare = len(files) // _SLACK if held + size > room else 0
        for _, path, length in sorted(files):
            if held + size <= room:
                if not spare:
                    break
                spare -= 1
            _unlink(path)
            held -= length
        self._room = max(0, min(room - held, max(size, room // _SLACK)))

    def _remove_all(self) -> None:
        for path in self._directory.glob(f"*{_ENDING}"):
            _unlink(path)

    def _path(self, prefix: Prefix) -> Path:
        digest = blake2b(prefix.start.encode(), digest_size=16)
        for piece in prefix.pieces:
            digest.update(len(piece).to_bytes(4, "little"))
            digest.update(piece)
        return self._directory / f"{prefix.tokens}-{digest.hexdigest()}{_ENDING}"


def _whole(prefix: Prefix, state: SavedState) -> list[memoryview]:
    """All that is in a file."""
    head = msgspec.msgpack.encode((prefix.start, prefix.pieces))
    parts = [memoryview(head), *state.parts()]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return [memoryview(_HEAD.pack(_MAGIC, crc, len(head))), *parts]


def _write_parts(path: Path, parts: list[memoryview]) -> None:
    with open(path, "wb", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        for part in parts:
            written = 0
            while written < len(part):
                written += file.write(part[written:])


def _prefix_in(path: Path) -> Prefix:
    with path.open("rb", buffering=0) as file:
        magic, _, length = _HEAD.unpack(file.read(_HEAD.size).ljust(_HEAD.size))
        if magic != _MAGIC:
            raise ValueError("it is no state")
        start, pieces = msgspec.msgpack.decode(file.read(length), type=_Kept)
    return Prefix(start, tuple(pieces))


def _files(root: Path) -> list[tuple[Path, os.stat_result]]:
    """Whole ones, of all models; whoever writes makes room himself."""
    found: list[tuple[Path, os.stat_result]] = []
    for path in root.glob(f"*/*{_ENDING}"):
        with contextlib.suppress(OSError):
            found.append((path, path.stat()))
    return found


def _worth(path: Path, info: os.stat_result) -> float:
    tokens = path.name.partition("-")[0]
    age = max(0.0, time() - info.st_mtime)
    return (int(tokens) if tokens.isdecimal() else 0) / max(1, info.st_size) / (1 + age)


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
