"""Sessions on the disk: what a chat has been left with, one file for each session and model, whole or not there.

A worker writes and reads them, the daemon lists and removes them. A session's name is never a path: it is in its file, whose own
name is a digest.
"""

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from struct import Struct

import msgspec

_MAGIC = b"cortexd session\n"
_HEAD = Struct("<16sII")  # the magic, CRC-32 of what follows, bytes of the head
_ENDING, _UNFINISHED = ".session", ".part"  # the last after the id of the writing process


class SessionKey(msgspec.Struct, frozen=True):
    """Whose it is, and what they call it."""

    tenant: str
    name: str


class SessionHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a file before its state, which is the one after `pieces`, from `start` on."""

    key: SessionKey
    model: str
    turns: int
    start: str
    pieces: list[bytes]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.pieces)) // 4


class SessionPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A file that nobody has looked into."""

    path: Path
    bytes: int
    used_at: float  # seconds since the epoch


class SessionFile(SessionPlace, frozen=True, kw_only=True):
    """A file as it is found."""

    head: SessionHead


def place_of(root: Path, identity: str, key: SessionKey) -> Path:
    """The file of this session with the model of this identity, below `root`."""
    name = _digest(msgspec.msgpack.encode(key))
    return root / _digest(identity.encode()) / f"{name}{_ENDING}"


def read_head(path: Path) -> SessionHead:
    """Raises OSError, and ValueError where it is no file of a session."""
    with path.open("rb", buffering=0) as file:
        magic, _, length = _HEAD.unpack(file.read(_HEAD.size).ljust(_HEAD.size))
        if magic != _MAGIC:
            raise ValueError("it is no session")
        return msgspec.msgpack.decode(file.read(length), type=SessionHead)


def read_state(path: Path) -> bytes:
    """Raises OSError, and ValueError where it is damaged. It is used now."""
    data = path.read_bytes()
    magic, crc, length = _HEAD.unpack(data[: _HEAD.size].ljust(_HEAD.size))
    if magic != _MAGIC or zlib.crc32(memoryview(data)[_HEAD.size :]) != crc:
        raise ValueError("it is damaged")
    with contextlib.suppress(OSError):
        os.utime(path)
    return data[_HEAD.size + length :]


def write(path: Path, head: SessionHead, state: Sequence[memoryview]) -> None:
    """In the place of what was there, which stays until this is on the disk. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}{_UNFINISHED}")
    body = [memoryview(msgspec.msgpack.encode(head)), *state]
    crc = 0
    for data in body:
        crc = zlib.crc32(data, crc)
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            for data in (_HEAD.pack(_MAGIC, crc, len(body[0])), *body):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def places(root: Path) -> Iterator[SessionPlace]:
    """All that there are, in no order."""
    for path in root.glob(f"*/*{_ENDING}"):
        with contextlib.suppress(OSError):  # it was removed a moment ago
            info = path.stat()
            yield SessionPlace(path=path, bytes=info.st_size, used_at=info.st_mtime)


def found(root: Path) -> Iterator[SessionFile]:
    """All that can be read, in no order."""
    for place in places(root):
        with contextlib.suppress(OSError, ValueError):  # it was removed a moment ago, or is damaged
            head = read_head(place.path)
            yield SessionFile(path=place.path, head=head, bytes=place.bytes, used_at=place.used_at)


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def sweep(root: Path) -> None:
    """What writers that have died have left unfinished."""
    for path in root.glob(f"*/*{_UNFINISHED}"):
        if not Path(f"/proc/{path.stem.rpartition('.')[2]}").exists():
            path.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
