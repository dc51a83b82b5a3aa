"""The header of a .pth file: PyTorch's zip archive of one pickle and one uncompressed member for each storage."""

import io
import os
import struct
import zipfile
from typing import BinaryIO

from cortexd.checkpoints.problem import damaged, quoted, unsupported
from cortexd.checkpoints.state_pickle import PickledTensor, Storage, read_state_pickle
from cortexd.checkpoints.tensor import DTYPE_BYTES, MAX_DIMENSIONS, MAX_TENSORS, TensorHeader

_MAX_PICKLE = 16 * 2**20  # bytes
_MAX_DIRECTORY = 4 * 2**20  # bytes: twice what 10 000 tensors take
_LOCAL_HEADER = 30  # bytes before a member's name and data

# All that zipfile raises on hostile bytes; it promises only the first.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError, struct.error)


def read_pth(file: BinaryIO, name: str) -> dict[str, TensorHeader]:
    """Tensors of an open .pth file; of its data only the pickle is read, and nothing in it is run."""
    window = _Window(file)
    try:
        with zipfile.ZipFile(window) as archive:
            members = _members(archive, window.size, name)
            root = _root(members, name)
            if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
                raise unsupported(name, "was written on a big-endian machine; convert it on a little-endian one")
            data = archive.read(f"{root}data.pkl")
    except _ZIP_ERRORS:
        raise damaged(name, "its zip directory cannot be read") from None
    storages = {member.removeprefix(f"{root}data/"): size for member, size in members.items()}
    return _tensors(read_state_pickle(data, name), storages, window.size, name)


class _Window(io.RawIOBase):
    """The file as zipfile may see it: no read beyond a limit, whatever lengths the file states."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_MAX_PICKLE + 1 if size < 0 else min(size, _MAX_PICKLE + 1))
        if len(data) > _MAX_PICKLE:
            raise zipfile.BadZipFile
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.size}[whence]
        if not 0 <= start + offset <= self.size:
            raise zipfile.BadZipFile
        return self._file.seek(start + offset)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
