"""The header of a safetensors file, parsed more strictly than the format's own library does.

That library lets a later duplicate of a name win, and takes headers of 100 MB with any number of tensors.
"""

import json
import math
import os
from collections.abc import Iterable
from typing import Annotated, BinaryIO

import msgspec

from cortexd.checkpoints.problem import damaged, quoted, unsupported
from cortexd.checkpoints.tensor import DTYPE_BYTES, MAX_DIMENSIONS, MAX_TENSORS, Place, TensorHeader

MAX_HEADER = 8 * 2**20  # bytes

_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[_Natural, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Natural, _Natural]


_outer = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry = msgspec.json.Decoder(_Entry)
_metadata = msgspec.json.Decoder(dict[str, str])


def read_safetensors(file: BinaryIO, name: str) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Tensors and metadata of an open safetensors file; its data is not read."""
    entries, metadata, _ = _read(file, name)
    tensors = {
        tensor: TensorHeader(entry.dtype, entry.shape, entry.data_offsets[1] - entry.data_offsets[0], name)
        for tensor, entry in entries.items()
    }
    return tensors, metadata


def places_in_safetensors(file: BinaryIO, name: str, tensors: Iterable[str]) -> list[Place]:
    """Where the numbers of these tensors lie, all of which are in the file."""
    entries, _, start = _read(file, name)
    return [_place(entries[tensor], start) for tensor in tensors]


def _read(file: BinaryIO, name: str) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """Tensors, metadata, and where the data starts."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > max(size, MAX_HEADER):
        raise damaged(name, "it does not begin with the header of a .pth or .safetensors file")
    if length > MAX_HEADER:
        raise unsupported(name, f"has a header of {length} bytes; no model needs more than {MAX_HEADER}")
    header = file.read(length)
    if len(header) < length:
        raise damaged(name, "its header is cut off")
    entries, metadata = _parse(header, name)
    _check_layout(entries, size - 8 - length, name)
    return entries, metadata, 8 + length


def _place(entry: _Entry, start: int) -> Place:
    width = DTYPE_BYTES[entry.dtype]
    strides = tuple(width * math.prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape)))
    return Place(entry.dtype, entry.shape, start + entry.data_offsets[0], strides)


def _parse(header: bytes, name: str) -> tuple[dict[str, _Entry], dict[str, str]]:
    entries: dict[str, _Entry] = {}
    metadata: dict[str, str] = {}
    try:
        # Types first: what passes them cannot make the second parser, which sees duplicates, use much memory.
        outer = _outer.decode(header)
        if len(outer) > MAX_TENSORS + 1:
            raise unsupported(name, f"holds more than {MAX_TENSORS} tensors, which no RWKV model has")
        for key, raw in outer.items():
            if key == "__metadata__":
                metadata = _metadata.decode(raw)
            else:
                entries[key] = _entry.decode(raw)
        json.loads(header.decode(), object_pairs_hook=_without_duplicates)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise damaged(name, f"its header is not that of a safetensors file ({_short(error)})") from None
    return entries, metadata


def _without_duplicates(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"{quoted(key)} stands there twice")
        seen.add(key)


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 150 and text.isprintable() else type(error).__name__


def _check_layout(entries: dict[str, _Entry], data_bytes: int, name: str) -> None:
    end = 0
    for tensor, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in DTYPE_BYTES:
            kinds = ", ".join(DTYPE_BYTES)
            raise unsupported(
                name, f"holds {quoted(tensor)} as {quoted(entry.dtype)}; cortexd reads {kinds}: convert it to BF16"
            )
        start, stop = entry.data_offsets
        if start != end:
            raise damaged(name, f"the data of {quoted(tensor)} overlaps another tensor's or leaves a hole")
        if stop - start != math.prod(entry.shape) * DTYPE_BYTES[entry.dtype]:
            raise damaged(name, f"{quoted(tensor)} has {stop - start} bytes, which does not fit its shape and dtype")
        end = stop
    if end != data_bytes:
        raise damaged(name, f"its tensors take {end} bytes, but {data_bytes} follow the header")
