"""Recurrent states: one slot of a pool for each sequence."""

from dataclasses import dataclass

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


class StatePool:
    """The states of all sequences of a model, fp32: a batch is a vector of slot numbers.

    att_shift, ffn_shift `[L, slots, C]` are the previous token's layer-norm outputs; wkv `[L, slots, H, N, N]`.
    free + held = slots.
    """

    def __init__(self, shape: ModelShape, slots: int) -> None:
        self.slots = slots
        self._shape = shape
        self._allocate(slots)
        self._free = list(range(slots - 1, -1, -1))
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def bytes_per_slot(self) -> int:
        return self._shape.state_bytes

    def take(self) -> int:
        """A slot that holds the zero state."""
        slot = self._free.pop()
        self._held.add(slot)
        for tensor in (self.att_shift, self.ffn_shift, self.wkv):
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

    def _allocate(self, slots: int) -> None:
        # Not zeroed: `take` does that, and a slot that nobody takes costs no memory.
        shape, n = self._shape, self._shape.head_size
        self.att_shift = torch.empty(shape.layers, slots, shape.width)
        self.ffn_shift = torch.empty(shape.layers, slots, shape.width)
        self.wkv = torch.empty(shape.layers, slots, shape.heads, n, n)

    def blank(self) -> SavedState:
        """Room for a state, which holds anything."""
        shape, n = self._shape, self._shape.head_size
        shift = torch.empty(2, shape.layers, shape.width)
        return SavedState(shift[0], shift[1], torch.empty(shape.layers, shape.heads, n, n))

    def save(self, slot: int) -> SavedState:
        return SavedState(self.att_shift[:, slot].clone(), self.ffn_shift[:, slot].clone(), self.wkv[:, slot].clone())

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
        self.att_shift[:, slot] = state.att_shift
        self.ffn_shift[:, slot] = state.ffn_shift
        self.wkv[:, slot] = state.wkv
