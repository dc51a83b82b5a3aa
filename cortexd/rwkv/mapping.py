"""Files mapped into memory: tensors that cost nothing but the page cache, which all processes share."""

import contextlib
import ctypes
import errno
import mmap
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, which Python has no name for yet
_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Place(NamedTuple):
    """Where a tensor's bytes lie."""

    file: str
    offset: int


class MappedFile:
    """A file mapped read-only and shared; unmapped when the last of its tensors is gone. Raises OSError."""

    def __init__(self, path: Path | str) -> None:
        with open(path, "rb", buffering=0) as file:
            self.size = os.fstat(file.fileno()).st_size
            self._map = mmap.mmap(file.fileno(), self.size, mmap.MAP_SHARED, mmap.PROT_READ)
        with contextlib.suppress(OSError):  # a kernel without them
            self._map.madvise(mmap.MADV_HUGEPAGE)  # read from the disk in pages of 2 MB
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it cannot be written to, which nobody wants
            self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def read_ahead(self, start: int, length: int) -> None:
        """Have these bytes read from the disk, without waiting for them."""
        begin = start - start % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, begin, start + length - begin)

    def read_in(self, start: int, length: int) -> None:
        """Have these bytes in memory and in this process's page table, so that no token waits for them. From any thread."""
        begin = start - start % mmap.PAGESIZE
        # Python's own call would hold up all other threads.
        if _madvise(self._bytes.data_ptr() + begin, start + length - begin, _POPULATE_READ):
            if (problem := ctypes.get_errno()) != errno.EINVAL:
                raise OSError(problem, os.strerror(problem))
            self._bytes[begin : start + length : mmap.PAGESIZE].sum()  # an older kernel

    def read(self, start: int, length: int) -> bytes:
        return self._map[start : start + length]

    def tensor(self, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> Tensor:
        length = dtype.itemsize
        for n in shape:
            length *= n
        return self._bytes[offset : offset + length].view(dtype).view(shape)


class Mappings:
    """The files that this process has mapped, as the kernel tells it."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, Place]] = []
        for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
            span, _, start, _, _, *path = line.split(None, 5)
            if path:
                first, end = (int(address, 16) for address in span.split("-"))
                self._ranges.append((first, end, Place(path[0], int(start, 16))))

    def place(self, tensor: Tensor, files: frozenset[str]) -> Place | None:
        """Where in one of these files the tensor lies, whole and as it is; None if it does not."""
        pointer = tensor.data_ptr()
        for first, end, start in self._ranges:
            if first <= pointer and pointer + tensor.nbytes <= end and start.file in files and tensor.is_contiguous():
                offset = pointer - first + start.offset
                return Place(start.file, offset) if offset % tensor.element_size() == 0 else None
        return None
