"""The header of a .pth file: PyTorch's zip archive of one pickle and one uncompressed member for each storage."""

import io
import math
import os
import struct
import zipfile
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from cortexd.checkpoints.problem import damaged, quoted, unsupported
from cortexd.checkpoints.state_pickle import PickledTensor, read_state_pickle
from cortexd.checkpoints.tensor import DTYPE_BYTES, MAX_DIMENSIONS, MAX_TENSORS, Place, TensorHeader

_MAX_PICKLE = 16 * 2**20  # bytes
_MAX_DIRECTORY = 4 * 2**20  # bytes: twice what 10 000 tensors take
_LOCAL_HEADER = 30  # bytes before a member's name and data
_LOCAL_MAGIC = b"PK\x03\x04"
_LOCAL_LENGTHS = struct.Struct("<26xHH")  # of the name, and of what pads it

# All that zipfile raises on hostile bytes; it promises only the first.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError, struct.error)


class _Index(NamedTuple):
    """What an archive holds: tensors by name, and the members that are storages by key."""

    tensors: dict[str, PickledTensor]
    storages: dict[str, zipfile.ZipInfo]
    size: int  # of the file


def read_pth(file: BinaryIO, name: str) -> dict[str, TensorHeader]:
    """Tensors of an open .pth file; of its data only the pickle is read, and nothing in it is run."""
    index = _read(file, name)
    if len(index.tensors) > MAX_TENSORS:
        raise unsupported(name, f"has {len(index.tensors)} tensors; no model needs more than {MAX_TENSORS}")
    return {key: _tensor(key, tensor, index, name) for key, tensor in index.tensors.items()}


def places_in_pth(file: BinaryIO, name: str, tensors: Iterable[str]) -> list[Place]:
    """Where the numbers of these tensors lie, all of which are in the file."""
    index = _read(file, name)
    return [_place(key, index, file, name) for key in tensors]


def _read(file: BinaryIO, name: str) -> _Index:
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
    storages = {member.removeprefix(f"{root}data/"): info for member, info in members.items()}
    return _Index(read_state_pickle(data, name), storages, window.size)


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


def _members(archive: zipfile.ZipFile, size: int, name: str) -> dict[str, zipfile.ZipInfo]:
    """Members by name; all stored as they are, one after the other, within the file."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if len(members) > 2 * MAX_TENSORS:
            raise unsupported(name, f"has more than {2 * MAX_TENSORS} members; no model needs so many")
        if info.filename in members:
            raise damaged(name, f"its archive holds {quoted(info.filename)} twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise unsupported(name, "is compressed, which PyTorch never does; write it again with torch.save")
        if not 0 <= info.header_offset <= size - _LOCAL_HEADER - info.file_size:
            raise damaged(name, f"its member {quoted(info.filename)} lies outside of the file")
        members[info.filename] = info
    return members


def _root(members: dict[str, zipfile.ZipInfo], name: str) -> str:
    """The folder inside the archive that holds everything, with its slash."""
    roots = [member.removesuffix("data.pkl") for member in members if member.endswith("/data.pkl")]
    if len(roots) != 1:
        raise unsupported(name, "is a zip archive, but not a PyTorch checkpoint; cortexd reads .pth and .safetensors")
    if members[f"{roots[0]}data.pkl"].file_size > _MAX_PICKLE:
        raise unsupported(name, f"has an index of more than {_MAX_PICKLE} bytes; no model needs so many")
    return roots[0]


def _tensor(key: str, tensor: PickledTensor, index: _Index, name: str) -> TensorHeader:
    """What the pickle says of a tensor, held against the storage that is there."""
    storage, width = tensor.storage, DTYPE_BYTES[tensor.storage.dtype]
    member = index.storages.get(storage.key)
    if member is None or member.file_size != storage.elements * width:
        raise damaged(name, f"the numbers of {quoted(key)} are missing or cut off")
    if len(tensor.shape) > MAX_DIMENSIONS or len(tensor.shape) != len(tensor.strides):
        raise damaged(name, f"the tensor {quoted(key)} has an impossible shape")
    if min((*tensor.shape, *tensor.strides, tensor.offset), default=0) < 0 or max(tensor.shape, default=0) > index.size:
        raise damaged(name, f"the tensor {quoted(key)} has an impossible shape")
    header = TensorHeader(dtype=storage.dtype, shape=tensor.shape, bytes=math.prod(tensor.shape) * width, file=name)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if header.elements and last >= storage.elements:
        raise damaged(name, f"the tensor {quoted(key)} reaches beyond its numbers")
    return header


def _place(key: str, index: _Index, file: BinaryIO, name: str) -> Place:
    tensor = index.tensors[key]
    header = _tensor(key, tensor, index, name)
    member, width = index.storages[tensor.storage.key], DTYPE_BYTES[header.dtype]
    # Here and in the archive's directory what pads the name differs: PyTorch aligns the data with it.
    file.seek(member.header_offset)
    start = file.read(_LOCAL_HEADER)
    if not start.startswith(_LOCAL_MAGIC):
        raise damaged(name, f"the numbers of {quoted(key)} are not where its directory says")
    begin = member.header_offset + _LOCAL_HEADER + sum(_LOCAL_LENGTHS.unpack(start))
    if begin + member.file_size > index.size:
        raise damaged(name, f"the numbers of {quoted(key)} are missing or cut off")
    strides = tuple(width * stride for stride in tensor.strides)
    return Place(header.dtype, header.shape, begin + width * tensor.offset, strides)
