"""The operators of RWKV-7 in Triton, which computes on GPUs of NVIDIA and AMD."""

import torch
from torch import Tensor

from cortexd_kernels.fused import channel, low_rank, mixing, products, sampling, wkv
from cortexd_kernels.fused.products import multiply
from cortexd_kernels.operators import Norm, Packed


class FusedOperators:
    """`Operators` in fp16, bf16 or fp32, with int8 weights or without."""

    shift_mix = staticmethod(mixing.shift_mix)
    head_streams = staticmethod(low_rank.head_streams)
    wkv = staticmethod(wkv.wkv)
    channel_mix = staticmethod(channel.channel_mix)
    product_add = staticmethod(products.product_add)
    products = staticmethod(products.products)
    sample = staticmethod(sampling.sample)

    def logits(self, x: Tensor, chosen: Tensor, norm: Norm, head: Packed, dtype: torch.dtype) -> Tensor:
        """`Operators.logits`: moves the head's matrix once where B ≤ 8."""
        logits = torch.empty(len(chosen), len(head.weight), device=x.device)
        if len(chosen):
            multiply(mixing.normalised_rows(x, chosen, norm, dtype).unsqueeze(0), head, logits)
        return logits
