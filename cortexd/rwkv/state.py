"""Recurrent states: one slot of a pool for each sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape


@dataclass(frozen=True)
class SavedState:
    """The state of one sequence, outside the pool: shifts `[L, C]`, wkv `[L, H, N, N]` (value rows, key columns)."""

    att_shift: Tensor
    ffn_shift: Tensor
    wkv: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.att_shift, self.ffn_shift, self.wkv

    @property
    def nbytes(self) -> int:
        return self.att_shift.nbytes + self.ffn_shift.nbytes + self.wkv.nbytes

    def parts(self) -> list[memoryview]:
        """What `pack` returns, in pieces that are not copied."""
        return [tensor.contiguous().numpy().data.cast("B") for tensor in self.tensors]

    def pack(self) -> bytes:
        """For a pool of the same model to `unpack`."""
        return b"".join(self.parts())


class Home(NamedTuple):
    """Where the states of a layer lie, and what their wkv is kept in."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32


class _Part(NamedTuple):
    """The states of all sequences for layers `first` to `end`, on one device: att_shift, ffn_shift `[n, slots, C]` and wkv
    `[n, slots, H, N, N]`.
    """

    first: int
    end: int
    tensors: tuple[Tensor, Tensor, Tensor]


class StatePool:
    """The states of all sequences of a model: a batch is a vector of slot numbers.

    att_shift, ffn_shift `[L, slots, C]` are the previous token's layer-norm outputs; wkv `[L, slots, H, N, N]`; all in fp32, on the
    host. With a `placement` each layer's are as their home says, and are had by `layer`. free + held = slots.
    """

    def __init__(self, shape: ModelShape, slots: int, placement: Sequence[Home] | None = None) -> None:
        self.slots = slots
        self._shape = shape
        self._placement = [Home()] * shape.layers if placement is None else placement
        self._allocate(slots)
        self._free = list(range(slots - 1, -1, -1))
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def bytes_per_slot(self) -> int:
        return self._shape.state_bytes

    @property
    def att_shift(self) -> Tensor:
        return self._only.tensors[0]

    @property
    def ffn_shift(self) -> Tensor:
        return self._only.tensors[1]

    @property
    def wkv(self) -> Tensor:
        return self._only.tensors[2]

    def layer(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """att_shift, ffn_shift `[slots, C]` and wkv `[slots, H, N, N]` of one layer."""
        part = next(part for part in self._parts if number < part.end)
        att_shift, ffn_shift, wkv = (tensor[number - part.first] for tensor in part.tensors)
        return att_shift, ffn_shift, wkv

    def take(self) -> int:
        """A slot that holds the zero state."""
        slot = self._free.pop()
        self._held.add(slot)
        for part in self._parts:
            for tensor in part.tensors:
                tensor[:, slot] = 0
        return slot

    def give_back(self, slot: int) -> None:
        self._held.remove(slot)
        self._free.append(slot)

    def release(self) -> None:
        """Give the memory back until `regain`; no slot may be held."""
        assert not self._held, "a slot is still held"
        self._allocate(0)

    def regain(self) -> None:
        self._allocate(self.slots)

    def check(self) -> None:
        """The invariant of the pool, for whoever has a moment to spare."""
        assert len(self._free) + len(self._held) == self.slots, "a slot was lost"
        assert self._held.isdisjoint(self._free), "a slot is both free and held"

    @property
    def _only(self) -> _Part:
        (part,) = self._parts
        return part

    def _allocate(self, slots: int) -> None:
        # Not zeroed: `take` does that, and a slot that nobody takes costs no memory.
        shape, n = self._shape, self._shape.head_size
        self._parts: list[_Part] = []
        for home, layers in groupby(range(shape.layers), lambda layer: self._placement[layer]):
            first, *others = layers
            count = 1 + len(others)
            att_shift, ffn_shift = (torch.empty(count, slots, shape.width, device=home.device) for _ in range(2))
            wkv = torch.empty(count, slots, shape.heads, n, n, device=home.device, dtype=home.dtype)
            self._parts.append(_Part(first, first + count, (att_shift, ffn_shift, wkv)))

    def blank(self) -> SavedState:
        """Room for a state, which holds anything."""
        shape, n = self._shape, self._shape.head_size
        shift = torch.empty(2, shape.layers, shape.width)
        return SavedState(shift[0], shift[1], torch.empty(shape.layers, shape.heads, n, n))

    def save(self, slot: int) -> SavedState:
        state = self.blank()
        for part in self._parts:
            for own, saved in zip(part.tensors, state.tensors, strict=True):
                saved[part.first : part.end] = own[:, slot]
        return state

    def unpack(self, data: bytes) -> SavedState:
        """Raises ValueError where they are not the bytes of a state of this model."""
        if len(data) != self.bytes_per_slot:
            raise ValueError(f"{len(data)} bytes are no state of this model, which has {self.bytes_per_slot}")
        shape, n = self._shape, self._shape.head_size
        shifts = shape.layers * shape.width
        numbers = torch.frombuffer(bytearray(data), dtype=torch.float32)
        return SavedState(
            numbers[:shifts].view(shape.layers, shape.width),
            numbers[shifts : 2 * shifts].view(shape.layers, shape.width),
            numbers[2 * shifts :].view(shape.layers, shape.heads, n, n),
        )

    def restore(self, slot: int, state: SavedState) -> None:
        for part in self._parts:
            for own, saved in zip(part.tensors, state.tensors, strict=True):
                own[:, slot] = saved[part.first : part.end]
