"""The second half of the low-rank products in Triton."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cortexd_kernels.fused.low_rank import head_streams
from cortexd_kernels.operators import HEAD, Inner, LowRankOut
from tests.kernels.fused.compiling import compiled
from tests.kernels.fused.judging import DTYPES, close, exact, plain, trapped, traps

RANKS = {"w": 64, "a": 32, "g": 160, "v": 96}


def inner(count: int, width: int, dtype: torch.dtype, residual: bool) -> Inner:
    """As `products` gives it: parts of one tensor."""
    sizes = [width] * 3 + list(RANKS.values())[: 4 if residual else 3]
    return Inner(*trapped(torch.randn(count, sum(sizes)).to(dtype)).split(sizes, dim=1))


def outer(width: int, dtype: torch.dtype, residual: bool) -> LowRankOut:
    def matrix(name: str) -> Tensor:
        return trapped((torch.randn(width, RANKS[name]) / RANKS[name] ** 0.5).to(dtype))

    vectors = [trapped(torch.randn(width)) for _ in range(5)]
    with_v = (matrix("v"), vectors[4]) if residual else (None, None)
    return LowRankOut(matrix("w"), matrix("a"), matrix("g"), *vectors[:4], *with_v)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "heads"), [(1, 1), (4, 1), (5, 3), (66, 2)])
@pytest.mark.parametrize("residual", [True, False], ids=["later layers", "first layer"])
def test_each_stream_is_its_definition(dtype: torch.dtype, count: int, heads: int, residual: bool):
    width = heads * HEAD
    with traps():
        given, weights = inner(count, width, dtype, residual), outer(width, dtype, residual)
        v_first = trapped(torch.randn(count, 3 * width).to(dtype))[:, width : 2 * width] if residual else None
        streams = head_streams(given, weights, v_first)
    expected = plain.head_streams(exact(given), exact(weights), exact(v_first))
    for name, stream, right in zip(streams._fields, streams, expected, strict=True):
        assert stream.dtype is (torch.float32 if name == "w" else dtype), name
        assert close(stream, right), name


def test_the_parts_need_not_be_of_one_tensor():
    given, weights = inner(3, 64, torch.float32, True), outer(64, torch.float32, True)
    apart = Inner(*(part.contiguous() for part in given))
    v_first = torch.randn(3, 64)
    for stream, same in zip(head_streams(apart, weights, v_first), head_streams(given, weights, v_first), strict=True):
        assert torch.equal(stream, same)


def test_a_key_of_zeros_removes_nothing():
    given, weights = inner(1, 64, torch.float32, False), outer(64, torch.float32, False)
    streams = head_streams(given._replace(k=torch.zeros(1, 64)), weights, None)
    assert torch.equal(streams.kappa, torch.zeros(1, 64))
    assert torch.equal(streams.k, torch.zeros(1, 64))


@pytest.mark.parametrize("bias", [-40.0, 40.0])
def test_a_decay_stays_between_its_bounds(bias: float):
    given, weights = inner(1, 64, torch.float32, False), outer(64, torch.float32, False)
    w = head_streams(given, weights._replace(w0=torch.full((64,), bias)), None).w
    assert ((w > 0.5452) & (w <= 1)).all()


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    width, ranks = 2048, (96, 96, 256, 64)

    def call(count: int, residual: bool = True) -> Callable[[], object]:
        given = Inner(*torch.empty(count, 3 * width + sum(ranks), dtype=dtype).split([width] * 3 + list(ranks), dim=1))
        w, a, g, v = (torch.empty(width, rank, dtype=dtype) for rank in ranks)
        weights = LowRankOut(w, a, g, *torch.empty(4, width))
        if not residual:
            return lambda: head_streams(given._replace(v_rank=None), weights, None)
        return lambda: head_streams(given, weights._replace(v=v, v0=torch.empty(width)), given.v)

    yield "many", call(1024)
    if dtype is torch.float16:
        yield "few", call(1)
        yield "first layer", call(1, residual=False)


def test_the_kernel_compiles_without_spilling():
    bounds = {"_head_streams": (160, 160)}  # on NVIDIA, on AMD
    for kernel in compiled(__name__):
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= bounds[kernel.name][kernel.target == "gfx942"], kernel
