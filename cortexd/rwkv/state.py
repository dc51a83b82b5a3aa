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


class StatePool:
    """The states of all sequences of a model, fp32: a batch is a vector of slot numbers.

    att_shift, ffn_shift `[L, slots, C]` are the previous token's layer-norm outputs; wkv `[L, slots, H, N, N]`.
    free + held = slots.
    """

    def __init__(self, shape: ModelShape, slots: int) -> None:
        n = shape.head_size
        self.slots = slots
        self.att_shift = torch.zeros(shape.layers, slots, shape.width)
        self.ffn_shift = torch.zeros(shape.layers, slots, shape.width)
        self.wkv = torch.zeros(shape.layers, slots, shape.heads, n, n)
        self._free = list(range(slots - 1, -1, -1))
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def bytes_per_slot(self) -> int:
        return sum(x.element_size() * x[:, 0].numel() for x in (self.att_shift, self.ffn_shift, self.wkv))

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

    def check(self) -> None:
        """The invariant of the pool, for whoever has a moment to spare."""
        assert len(self._free) + len(self._held) == self.slots, "a slot was lost"
        assert self._held.isdisjoint(self._free), "a slot is both free and held"

    def save(self, slot: int) -> SavedState:
        return SavedState(self.att_shift[:, slot].clone(), self.ffn_shift[:, slot].clone(), self.wkv[:, slot].clone())

    def restore(self, slot: int, state: SavedState) -> None:
        self.att_shift[:, slot] = state.att_shift
        self.ffn_shift[:, slot] = state.ffn_shift
        self.wkv[:, slot] = state.wkv
