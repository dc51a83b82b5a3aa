"""The operators of RWKV-7 in Triton, which computes on GPUs of NVIDIA and AMD."""

import torch
from torch import Tensor

from cortexd_kernels.choices import FORMULA, Choices
from cortexd_kernels.fused import channel, low_rank, mixing, products, sampling, wkv
from cortexd_kernels.fused.products import multiply
from cortexd_kernels.operators import Columns, Norm, Packed


class FusedOperators:
    """`Operators` in fp16, bf16 or fp32, with weights in int8 or int4 or without; `choices` are those for the device."""

    shift_mix = staticmethod(mixing.shift_mix)
    head_streams = staticmethod(low_rank.head_streams)
    wkv = staticmethod(wkv.wkv)
    sample = staticmethod(sampling.sample)

    def __init__(self, choices: Choices = FORMULA) -> None:
        self._choices = choices

    def products(self, streams: Tensor, packed: Packed) -> tuple[Tensor, ...]:
        return products.products(streams, packed, self._choices)

    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        products.product_add(x, y, packed, self._choices)

    def channel_mix(self, x: Tensor, mixed: Tensor, key: Packed, value: Columns) -> None:
        channel.channel_mix(x, mixed, key, value, self._choices)

    def logits(self, x: Tensor, chosen: Tensor, norm: Norm, head: Packed, dtype: torch.dtype) -> Tensor:
        """`Operators.logits`: moves the head's matrix once where B ≤ 8."""
        logits = torch.empty(len(chosen), len(head.weight), device=x.device)
        if len(chosen):
            rows = mixing.normalised_rows(x, chosen, norm, dtype).unsqueeze(0)
            multiply(rows, head, logits, choices=self._choices)
        return logits
