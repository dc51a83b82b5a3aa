"""Drawing for a whole step: on the device that computed it, in one native call, or in PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cortexd.rwkv.device_drawing import DeviceDrawing
from cortexd.rwkv.sampling import BrokenLogits, SamplerState, sample
from cortexd_kernels.native.sampling import Draw
from cortexd_kernels.native.sampling import sample as native_sample
from cortexd_kernels.native.threads import Threads


class Drawing:
    """Draws the next token of each sequence of a step, never one of the `banned` ids."""

    def __init__(self, banned: Sequence[int], threads: Threads | None, device: DeviceDrawing | None = None) -> None:
        """Without a `device` to draw on, logits are brought to the host."""
        self._device = device
        self._threads = threads
        self._banned = torch.tensor(banned, dtype=torch.int64 if threads is None else torch.int32)

    def draw(self, logits: Tensor, states: Sequence[SamplerState], slots: Sequence[int]) -> list[int | None]:
        """One token for each row of `logits` `[B, V]` in fp32, None where no number of it is finite; the other states advance.

        `slots` are those of the sequences, of which no two have the same.
        """
        if self._device is not None:
            return self._device.draw(logits, states, slots)
        logits = logits.cpu()
        if self._threads is None:
            return [self._in_torch(logits[i : i + 1], state) for i, state in enumerate(states)]
        if not states:
            return []
        drawn = native_sample(self._threads, logits, [_draw(state) for state in states], self._banned)
        for token, state in zip(drawn, states, strict=True):
            if token >= 0:
                state.advance(token)
        return [token if token >= 0 else None for token in drawn]

    def release(self) -> None:
        """Hold no memory of a device until the next draw."""
        if self._device is not None:
            self._device.release()

    def _in_torch(self, logits: Tensor, state: SamplerState) -> int | None:
        try:
            return sample(logits, [state], self._banned)[0]
        except BrokenLogits:
            return None


def _draw(state: SamplerState) -> Draw:
    s = state.sampling
    ids, added = state.additions()
    return Draw(
        uniform=state.uniform(),
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        min_p=s.min_p,
        rwkv_order=s.order == "rwkv",
        ids=torch.as_tensor(ids, dtype=torch.int32) if len(ids) else None,
        added=torch.as_tensor(added, dtype=torch.float32) if len(ids) else None,
    )
