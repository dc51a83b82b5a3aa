"""Where a model is computed and in which numbers: ChatRWKV's notation, as far as this version runs it."""

from dataclasses import dataclass

import torch

from cortexd.errors import LoadFailed
from cortexd.wire import STRATEGIES, one_of
from cortexd_kernels.native.layout import FORMATS, NAMES

_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NATIVE_ONLY = ("fp16", "int8", "int4")


@dataclass(frozen=True)
class Strategy:
    """Large matrices are kept as `dtype`, int4 as uint8; everything else, every state and, in native kernels, all arithmetic is
    fp32.
    """

    device: str
    dtype: torch.dtype

    def is_stored_as(self, dtype: str) -> bool:
        """Whether a header's `dtype` is what is computed with."""
        return _STORED.get(dtype) is self.dtype

    def __str__(self) -> str:
        return f"{self.device} {NAMES[self.dtype]}"


def parse_strategy(text: str, stored: str, *, native: bool) -> Strategy:
    """The strategy a model is configured with; raises LoadFailed where this machine cannot run it.

    `auto` computes with 16-bit weights as they are stored: `native` kernels are limited by the bytes they read. Without them that
    is so where the processor has AVX-512: elsewhere bf16 products are emulated, and on prompts slower than fp32 by more than twice
    (measured).
    """
    if text == "auto":
        fast = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and stored == "BF16"
        dtype = _STORED.get(stored) if native or fast else None
        return Strategy("cpu", dtype or torch.float32)
    device, _, name = text.partition(" ")
    if device != "cpu" or name not in FORMATS:
        raise LoadFailed(f"The strategy {text!r} is not one this version can run: use {one_of(STRATEGIES)}.")
    if needs_native(text) and not native:
        raise LoadFailed(
            f"The strategy {text!r} needs the native kernels, which are not there: install a C++ compiler (g++ or clang++), "
            "or use 'auto'."
        )
    return Strategy(device, FORMATS[name])


def needs_native(text: str) -> bool:
    """Whether PyTorch does not compute this strategy."""
    return text.partition(" ")[2] in _NATIVE_ONLY


def candidates(text: str) -> list[torch.dtype]:
    """What a strategy may turn out to be, before one knows how the weights are stored."""
    _, _, name = text.partition(" ")
    return [FORMATS[name]] if name in FORMATS else list(_STORED.values())
