"""Drawing where the logits are: from a GPU only ids come back."""

from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor

from cortexd.rwkv.sampling import SamplerState
from cortexd_kernels.draws import Draw, Sample, packed


class DeviceDrawing:
    """Draws with `sample` for sequences in so many `slots`, what `cortexd.rwkv.sampling` would draw from the same logits.

    What is added to the logits of a sequence lies on the device, in the row of its slot. A row that is not known to be as the
    sequence left it is written anew: the sequence was begun, restored, or moved to this slot.
    """

    def __init__(self, sample: Sample, slots: int, banned: Sequence[int], uncounted: Collection[int]) -> None:
        self._sample = sample
        self._slots = slots
        self._banned = list(banned)
        self._uncounted = list(uncounted)
        self.release()

    def draw(self, logits: Tensor, states: Sequence[SamplerState], slots: Sequence[int]) -> list[int | None]:
        """One token for each row of `logits` `[B, V]`, None where no number of it is finite; the other states advance."""
        if not states:
            return []
        for state, slot in zip(states, slots, strict=True):
            self._write(state, slot, logits)
        draws = packed([_draw(state, slot) for state, slot in zip(states, slots, strict=True)], logits.device)
        banned, uncounted = self._flags(logits)
        with torch.cuda.device_of(logits):  # kernels are started where PyTorch is, not where their tensors are
            tokens = self._sample(logits, draws, self._counts, self._bias, banned, uncounted)
        drawn = cast("list[int]", tokens.tolist())  # pyright: ignore[reportUnknownMemberType]  # as torch types it
        for state, slot, token in zip(states, slots, drawn, strict=True):
            if token >= 0:
                state.advance(token)
                if state.penalised:
                    self._counted[slot] = state, state.step
        return [token if token >= 0 else None for token in drawn]

    def release(self) -> None:
        """Hold no memory of the device until the next draw."""
        self._counts: Tensor | None = None
        self._bias: Tensor | None = None
        self._flagged: tuple[Tensor, Tensor] | None = None
        self._counted: dict[int, tuple[SamplerState, int]] = {}  # by slot: whose row it is, as of which step
        self._biased: dict[int, SamplerState] = {}

    def _write(self, state: SamplerState, slot: int, logits: Tensor) -> None:
        if state.penalised and self._counted.get(slot) != (state, state.step):
            if self._counts is None:
                self._counts = torch.empty(self._slots, logits.shape[1], device=logits.device)
            _fill(self._counts[slot], -1.0, state.occurrences)
            self._counted[slot] = state, state.step
        if state.sampling.logit_bias and self._biased.get(slot) is not state:
            if self._bias is None:
                self._bias = torch.empty(self._slots, logits.shape[1], device=logits.device)
            _fill(self._bias[slot], 0.0, state.sampling.logit_bias)
            self._biased[slot] = state

    def _flags(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self._flagged is None:
            banned, uncounted = (torch.zeros(logits.shape[1], dtype=torch.bool) for _ in range(2))
            banned[self._banned] = True
            uncounted[self._uncounted] = True
            self._flagged = banned.to(logits.device), uncounted.to(logits.device)
        return self._flagged


def _fill(row: Tensor, elsewhere: float, values: dict[int, float]) -> None:
    written = torch.full(row.shape, elsewhere)
    if values:
        written[list(values)] = torch.tensor(list(values.values()))
    row.copy_(written)


def _draw(state: SamplerState, slot: int) -> Draw:
    s = state.sampling
    return Draw(
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        min_p=s.min_p,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        penalty_decay=s.penalty_decay,
        rwkv_order=s.order == "rwkv",
        uniform=state.uniform(),
        slot=slot,
        biased=bool(s.logit_bias),
    )
