"""The feed-forward half of a layer in Triton."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cortexd_kernels.fused.channel import add_columns, channel_mix
from cortexd_kernels.operators import Activation, Columns, Packed
from tests.kernels.fused.compiling import compiled
from tests.kernels.fused.judging import DTYPES, error, exact, packed, plain, trapped, traps, uninitialised, wide

SQUARED = int(Activation.RELU_SQUARED)
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3}


def columns(features: int, width: int, dtype: torch.dtype) -> Columns:
    weights = packed(features, width, dtype)
    return Columns(weights.weight, weights.scales, weights.groups)


def judge(count: int, features: int, width: int, dtype: torch.dtype, weights_in: torch.dtype) -> None:
    with traps():
        key, value = packed(features, width, weights_in, activation=SQUARED), columns(features, width, weights_in)
        x, mixed = trapped(torch.randn(count, width) / 100), trapped(torch.randn(1, count, width).to(dtype))
        expected = exact(x)
        channel_mix(x, mixed, key, value)
    plain.channel_mix(expected, exact(mixed), exact(key), Columns(wide(*value)))
    assert error(x, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 3, 8, 9, 21])
def test_the_two_products_are_their_definition(dtype: torch.dtype, count: int):
    judge(count, 100, 192, dtype, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [2, 17])
def test_both_matrices_may_be_int8(dtype: torch.dtype, count: int):
    judge(count, 96, 128, dtype, torch.int8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "features", "width"), [(2, 100, 192), (17, 96, 288)])
def test_both_matrices_may_be_int4(dtype: torch.dtype, count: int, features: int, width: int):
    judge(count, features, width, dtype, torch.uint8)


def idle_key(features: int, width: int, idle: Tensor) -> Packed:
    """Weights whose products with positive numbers are negative in the idle features, positive in the others."""
    weight = torch.rand(features, width) / width
    return Packed.single(torch.where(idle.unsqueeze(1), -weight, weight), activation=Activation.RELU_SQUARED)


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_rows_whose_activation_is_zero_are_not_read(share: float):
    idle = torch.arange(96) < 96 * share
    key, value = idle_key(96, 64, idle[torch.randperm(96)]), torch.randn(96, 64)
    x, mixed = torch.randn(4, 64), torch.rand(1, 4, 64)
    expected = x.double()
    plain.channel_mix(expected, mixed.double(), exact(key), Columns(value.double()))
    unused = (key.weight < 0).all(1, keepdim=True)
    channel_mix(x, mixed, key, Columns(value.masked_fill(unused, torch.nan)))
    assert error(x, expected) < 1e-5


def test_a_row_that_one_sequence_needs_is_read_for_it():
    key = Packed.single(torch.eye(64), activation=Activation.RELU_SQUARED)
    value = torch.randn(64, 64)
    mixed = torch.full((1, 3, 64), -1.0)
    mixed[0, 1, 5] = 2.0
    x = torch.zeros(3, 64)
    channel_mix(x, mixed, key, Columns(value))
    assert error(x[1], 4 * value[5].double()) < 1e-6
    assert torch.equal(x[[0, 2]], torch.zeros(2, 64))


def test_the_same_step_gives_the_same_bits_again_and_alone():
    key, value = packed(96, 64, torch.float16, activation=SQUARED), columns(96, 64, torch.float16)
    start, mixed = torch.randn(5, 64), torch.randn(1, 5, 64).half()

    def run(rows: slice) -> Tensor:
        x = start[rows].clone()
        channel_mix(x, mixed[:, rows].contiguous(), key, value)
        return x

    together = run(slice(None))
    assert torch.equal(run(slice(None)), together)
    assert torch.equal(run(slice(2, 3)), together[2:3])


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    def call(count: int, kind: torch.dtype) -> Callable[[], object]:
        x, active = torch.empty(count, 2048), torch.empty(count, 8192, dtype=dtype)
        value = Columns(*uninitialised(8192, 2048, kind))
        return lambda: add_columns(x, active, value)

    yield "one", call(1, dtype)
    yield "many", call(1024, dtype)
    if dtype is torch.float16:
        yield "eight", call(8, dtype)
        yield "some, int8", call(32, torch.int8)
        yield "one, int4", call(1, torch.uint8)


def test_the_kernels_compile_without_spilling():
    bounds = {
        "_few_rows": (144, 208),
        "_many_rows": (144, 136),
        "_columns": (192, 256),
        "_add_sums": (64, 64),
    }  # on NVIDIA, on AMD
    for kernel in compiled(__name__):
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= bounds[kernel.name][kernel.target == "gfx942"], kernel
