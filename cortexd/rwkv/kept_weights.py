"""Prepared weights in one file: what a model computes with, mapped as it is.

A file is the tensors, in order of use, each from the beginning of a page, then the index as msgpack, then 16 bytes: the index's
CRC-32 and length and a magic number. Tensors that the checkpoint itself holds in the right form are not kept: the index says where
they lie.
"""

import errno
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape
from cortexd.rwkv.mapping import MappedFile, Mappings, Place
from cortexd.rwkv.prepare import EMBEDDING

DtypeName = Literal["float32", "bfloat16", "float16", "int8", "uint8"]

_PAGE = 4096
# Bytes read or written at once: what is written in large pieces is kept in large pages, mapped fifty times faster (on ext4).
_BLOCK = 8 * 2**20
_TAIL = struct.Struct("<II8s")
_MAGIC = b"cortexd\n"
_NAMES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int8: "int8",
    torch.uint8: "uint8",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One tensor; `file` is "" where its bytes are in the kept file itself."""

    name: str
    dtype: DtypeName
    shape: tuple[int, ...]
    file: str
    offset: int

    @property
    def bytes(self) -> int:
        length = _DTYPES[self.dtype].itemsize
        for n in self.shape:
            length *= n
        return length


class Index(msgspec.Struct, frozen=True):
    shape: ModelShape
    entries: list[Entry]


class KeptWeights:
    """One kept file, opened and checked. Raises OSError, ValueError or msgspec.MsgspecError where there is none that is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        own = MappedFile(path)
        index = _read_index(own)
        self.shape = index.shape
        self.bytes = sum(entry.bytes for entry in index.entries)
        self._entries = index.entries
        self._files = {file: MappedFile(file) for file in {entry.file for entry in index.entries} - {""}} | {"": own}
        for entry in index.entries:
            if not 0 <= entry.offset <= self._files[entry.file].size - entry.bytes:
                raise ValueError(f"{entry.name} lies beyond the end of its file")

    def tensors(self) -> dict[str, Tensor]:
        return {
            entry.name: self._files[entry.file].tensor(_DTYPES[entry.dtype], entry.shape, entry.offset)
            for entry in self._entries
        }

    def read_in(self, report: Callable[[int, int], None], threads: int) -> None:
        """From the disk into memory by so many threads, in order of use; `report` is told bytes done and in all."""
        done = 0
        with ThreadPoolExecutor(threads) as pool:
            for length in pool.map(self._read_piece, self._pieces()):
                done += length
                report(done, self.bytes)

    def _pieces(self) -> Iterator[tuple[Entry, int, int]]:
        """Tensors, and where in their files some of their bytes begin and how many they are."""
        for entry in self._entries:
            for start in range(0, entry.bytes, _BLOCK):
                yield entry, entry.offset + start, min(_BLOCK, entry.bytes - start)

    def _read_piece(self, piece: tuple[Entry, int, int]) -> int:
        entry, start, length = piece
        file = self._files[entry.file]
        # Of the embedding only a few rows are ever looked up: it may stay where it is.
        (file.read_ahead if entry.name == EMBEDDING else file.read_in)(start, length)
        return length


class _Blocks:
    """Writes in large pieces, each from a multiple of their size on."""

    def __init__(self, file: FileIO, room: int) -> None:
        self._file = file
        self._room = room
        self._block = bytearray(_BLOCK)
        self._filled = 0
        self.size = 0

    def write(self, data: memoryview | bytes) -> None:
        """Raises OSError where there is no room."""
        self.size += len(data)
        if self.size > self._room:
            raise OSError(errno.ENOSPC, "the weights cache is full")
        data = memoryview(data)
        while data:
            taken = data[: _BLOCK - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            data = data[len(taken) :]
            if self._filled == _BLOCK:
                self.flush()

    def flush(self) -> None:
        left = memoryview(self._block)[: self._filled]
        while left:
            left = left[self._file.write(left) :]
        self._filled = 0


def write_weights(
    file: FileIO, shape: ModelShape, tensors: Iterable[tuple[str, Tensor]], own: frozenset[str], room: int
) -> None:
    """Write `tensors` as they come, but for those that lie in a file of `own`. Raises OSError where that takes more than `room`."""
    entries: list[Entry] = []
    mappings = Mappings()
    blocks = _Blocks(file, room)
    for name, tensor in tensors:
        place = mappings.place(tensor, own)
        if place is None:
            blocks.write(bytes(-blocks.size % _PAGE))
            place = Place("", blocks.size)
            blocks.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        entries.append(Entry(name, _NAMES[tensor.dtype], tuple(tensor.shape), place.file, place.offset))
    index = msgspec.msgpack.encode(Index(msgspec.structs.replace(shape, origins={}), entries))
    blocks.write(index + _TAIL.pack(zlib.crc32(index), len(index), _MAGIC))
    blocks.flush()


def _read_index(file: MappedFile) -> Index:
    start = file.size - _TAIL.size
    if start < 0:
        raise ValueError("it is cut off")
    checksum, length, magic = _TAIL.unpack(file.read(start, _TAIL.size))
    if magic != _MAGIC or length > start:
        raise ValueError("it is cut off")
    index = file.read(start - length, length)
    if zlib.crc32(index) != checksum:
        raise ValueError("its index is damaged")
    return _decode_index(index)


_decode_index = msgspec.msgpack.Decoder(Index).decode
