"""Linear layers over rows of a batch, in which no row's result depends on how many others there are."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

_VECTORS = 32  # numbers: two vectors of AVX-512, the step of torch's elementwise loops
_PROBE = 64  # rows, width and outputs of the matrices that `least_rows` tries


@functools.cache
def least_rows(dtype: torch.dtype, threads: int) -> int:  # noqa: ARG001 - a part of the cache's key
    """The fewest rows from which on a product's rows do not depend on their number, found by trying.

    Libraries choose another summation order for a few rows than for many (measured: MKL in fp32 below 4 rows a thread; oneDNN in
    bf16 never), so that a stream alone would drift from the same stream beside others.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_PROBE, _PROBE, generator=generator).to(dtype)
    weight = torch.randn(_PROBE, _PROBE, generator=generator).to(dtype)
    whole = F.linear(x, weight)
    for least in (1, 2, 4, 8, 16, 32):
        if all(torch.equal(F.linear(x[:rows], weight), whole[:rows]) for rows in range(least, _PROBE)):
            return least
    return _PROBE


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
    """f(x W₁) W₂ with W₁ `[in, rank]` and W₂ `[rank, out]`, as RWKV-7 makes decay, gates and mixing weights."""

    def __init__(self, inner: Tensor, outer: Tensor) -> None:
        # Elementwise functions treat what is left over after whole vectors by another formula: no row may end in one.
        missing = -inner.shape[1] % _VECTORS
        self.inner = Linear(F.pad(inner.t(), (0, 0, 0, missing)).contiguous())
        self.outer = Linear(F.pad(outer.t(), (0, missing)).contiguous())

    def plain(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def tanh(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)))

    def sigmoid(self, x: Tensor) -> Tensor:
        return self.outer(torch.sigmoid(self.inner(x)))
