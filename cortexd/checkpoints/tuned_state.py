"""A state-tuned initial state: what RWKV's trainers write of one, and the one form in which cortexd keeps it."""

import hashlib
import json
import mmap
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from cortexd.checkpoints.header import Header, read_open
from cortexd.checkpoints.problem import AGAIN, damaged, unsupported
from cortexd.checkpoints.pth import places_in_pth
from cortexd.checkpoints.safetensors import places_in_safetensors
from cortexd.checkpoints.tensor import Place

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

_NAME = re.compile(r"blocks\.(0|[1-9]\d{0,5})\.att\.time_state")
_NUMBERS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}  # numpy has no bfloat16: it is the upper half of an fp32
_MOST_BYTES = 2**30  # as fp32: a small file may claim to be any size by strides of 0
_ALIGNMENT = 8  # bytes, of what follows a safetensors header


class StateShape(msgspec.Struct, frozen=True):
    """One matrix `size` x `size` for each of `heads` heads in each of `layers` layers."""

    layers: int
    heads: int
    size: int

    @property
    def bytes(self) -> int:
        """In fp32."""
        return 4 * self.layers * self.heads * self.size**2

    def __str__(self) -> str:
        return f"{_counted(self.layers, 'layer')} of {_counted(self.heads, 'head')} of {self.size} x {self.size}"


class TunedState:
    """An open .pth or safetensors file with a tensor `blocks.{i}.att.time_state` `[H, V, K]` for each layer; others are ignored.

    `name` is what it is called in what is said of it. Whatever is wrong with it raises UnsupportedCheckpoint: here, or,
    where it is the numbers, when they are read.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        header = read_open(file, name)
        names = _names(header)
        self.shape = _shape(header, names)
        self.dtype = _dtype(header, names)  # "BF16", "F16" or "F32"
        self._file = file
        self._name = name
        find = places_in_pth if header.format == "pth" else places_in_safetensors
        self._places = find(file, name, names)

    def layers(self) -> "Iterator[NDArray[float32]]":
        """`[H, V, K]` of each layer in turn, the numbers as they are in the file."""
        import numpy as np  # here, for a daemon that is never given a state does without it

        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        for layer, place in enumerate(self._places):
            numbers = _as_fp32(place, mapped)
            if not np.isfinite(numbers).all():
                raise unsupported(self._name, f"has numbers that are not finite in layer {layer}; tune it again")
            yield numbers

    def write(self, file: BinaryIO) -> str:
        """As safetensors in fp32, the layers in order: equal numbers make equal bytes. Returns their SHA-256, in hex."""
        digest = hashlib.sha256()
        for part in self._canonical():
            file.write(part)
            digest.update(part)
        return digest.hexdigest()

    def _canonical(self) -> Iterator[bytes]:
        # Not by the safetensors library, whose next version may order or pad otherwise.
        shape = (self.shape.heads, self.shape.size, self.shape.size)
        ends = [layer * (self.shape.bytes // self.shape.layers) for layer in range(self.shape.layers + 1)]
        entries = {
            f"blocks.{layer}.att.time_state": {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            for layer, offsets in enumerate(pairwise(ends))
        }
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        yield len(header).to_bytes(8, "little")
        yield header
        for layer in self.layers():
            yield layer.tobytes()


def _names(header: Header) -> list[str]:
    """Those of its tensors, layer by layer."""
    layers = {int(match[1]): name for name in header.tensors if (match := _NAME.fullmatch(name))}
    if not layers:
        raise unsupported(header.name, "is no tuned state: it has no tensor blocks.0.att.time_state")
    if missing := set(range(max(layers))) - layers.keys():
        raise unsupported(
            header.name, f"has no tensor blocks.{min(missing)}.att.time_state, but one of a later layer; {AGAIN}"
        )
    return [layers[layer] for layer in range(len(layers))]


def _shape(header: Header, names: list[str]) -> StateShape:
    first = header.tensors[names[0]].shape
    for name in names:
        if (shape := header.tensors[name].shape) != first:
            raise damaged(header.name, f"the shape of {name} is {list(shape)}, that of {names[0]} {list(first)}")
    if len(first) != 3 or first[1] != first[2] or 0 in first:
        raise unsupported(
            header.name,
            f"holds {names[0]} as {list(first)}; a state is [heads, size, size], the last two of them equal",
        )
    found = StateShape(len(names), first[0], first[1])
    if found.bytes > _MOST_BYTES:
        raise unsupported(
            header.name, f"would take {found.bytes} bytes; no model has a state of more than {_MOST_BYTES}"
        )
    return found


def _dtype(header: Header, names: list[str]) -> str:
    dtypes = dict.fromkeys(header.tensors[name].dtype for name in names)
    if len(dtypes) > 1:
        raise unsupported(header.name, f"mixes {' and '.join(dtypes)}; save all its layers in one of them")
    dtype = next(iter(dtypes))
    if dtype not in _NUMBERS:
        raise unsupported(header.name, f"is stored as {dtype}; save it as one of {', '.join(_NUMBERS)}")
    return dtype


def _as_fp32(place: Place, mapped: mmap.mmap) -> "NDArray[float32]":
    import numpy as np

    stored = np.ndarray(place.shape, _NUMBERS[place.dtype], mapped, place.offset, place.strides)
    if place.dtype == "BF16":
        return (stored.astype("<u4", order="C") << 16).view("<f4")
    return stored.astype("<f4", order="C")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
