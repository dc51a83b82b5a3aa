"""Where a model is computed and in which numbers: ChatRWKV's notation, as far as this version runs it."""

from dataclasses import dataclass

import torch

from cortexd.errors import LoadFailed
from cortexd.wire import STRATEGIES, one_of

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Strategy:
    """Large matrices are kept and multiplied in `dtype`; everything else, and every state, is fp32."""

    device: str
    dtype: torch.dtype

    def is_stored_as(self, dtype: str) -> bool:
        """Whether a header's `dtype` is what is computed in."""
        return {"F32": torch.float32, "BF16": torch.bfloat16}.get(dtype) is self.dtype

    def __str__(self) -> str:
        return f"{self.device} {'bf16' if self.dtype is torch.bfloat16 else 'fp32'}"


def parse_strategy(text: str, stored: str) -> Strategy:
    """The strategy a model is configured with.

    `auto` keeps bf16 weights as they are stored where the processor has AVX-512. Elsewhere bf16 products are emulated, and slower
    than fp32 on prompts by more than twice (measured), so that everything is computed in fp32.
    """
    if text == "auto":
        fast = stored == "BF16" and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        return Strategy("cpu", torch.bfloat16 if fast else torch.float32)
    device, _, dtype = text.partition(" ")
    if device == "cpu" and dtype in _DTYPES:
        return Strategy(device, _DTYPES[dtype])
    raise LoadFailed(f"The strategy {text!r} is not one this version can run: use {one_of(STRATEGIES)}.")
