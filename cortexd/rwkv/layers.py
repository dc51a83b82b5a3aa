"""Linear layers over rows of a batch, in which no row's result depends on how many others there are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cortexd.rwkv.rows import least_rows


class Linear:
    """y = x Wᵀ with W `[out, in]` as the file holds it; x and y `[rows, …]` in fp32, the product in W's dtype."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        missing = least_rows(self.weight.dtype, torch.get_num_threads()) - rows
        x = x.to(self.weight.dtype)
        if missing > 0:
            x = F.pad(x, (0, 0, 0, missing))
        return F.linear(x, self.weight)[:rows].float()


class LowRank:
    """f(x W₁) W₂ as RWKV-7 makes decay, gates and mixing weights; given as W₁ᵀ `[rank, in]` and W₂ᵀ `[out, rank]`.

    Computed in fp32: they are small, and what they make stands in exponents.
    """

    def __init__(self, inner: Tensor, outer: Tensor) -> None:
        self.inner, self.outer = Linear(inner.float()), Linear(outer.float())

    def plain(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def tanh(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)))

    def sigmoid(self, x: Tensor) -> Tensor:
        return self.outer(torch.sigmoid(self.inner(x)))
