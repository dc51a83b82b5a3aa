"""Products with packed weights in Triton."""

from collections.abc import Callable, Iterator

import pytest
import torch

from cortexd_kernels.fused import FusedOperators
from cortexd_kernels.fused.products import product_add, products
from cortexd_kernels.operators import Activation, Packed, Part
from tests.kernels.fused.compiling import compiled
from tests.kernels.fused.judging import DTYPES, close, error, exact, norm, packed, plain, trapped, traps, uninitialised

PARTS = (
    Part(64, 1),
    Part(32, 0, Activation.TANH),
    Part(32, 2, Activation.SIGMOID),
    Part(17, 1, Activation.RELU_SQUARED),
)
INTEGERS = (torch.int8, torch.uint8)  # int4, in pairs
COUNTS = [1, 3, 8, 9, 19]  # few rows, and more


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
def test_each_part_multiplies_its_stream_and_ends_in_its_activation(dtype: torch.dtype, count: int):
    with traps():
        weights = packed(145, 192, dtype, PARTS)
        streams = trapped(torch.randn(3, count, 192).to(dtype))
        results = products(streams, weights)
    expected = plain.products(exact(streams), exact(weights))
    for result, right in zip(results, expected, strict=True):
        assert result.dtype is dtype
        assert close(result, right)


@pytest.mark.parametrize("weights_in", INTEGERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [2, 9])
def test_weights_may_be_integers_with_scales(weights_in: torch.dtype, dtype: torch.dtype, count: int):
    with traps():
        weights = packed(49, 352, weights_in, (Part(32, 1), Part(17, 0, Activation.TANH)))
        streams = trapped(torch.randn(2, count, 352).to(dtype))
        results = products(streams, weights)
    for result, right in zip(results, plain.products(exact(streams), exact(weights)), strict=True):
        assert close(result, right)


@pytest.mark.parametrize("weights_in", [*DTYPES, *INTEGERS], ids=str)
@pytest.mark.parametrize("count", [3, 17])
def test_a_product_is_added_in_place(weights_in: torch.dtype, count: int):
    with traps():
        weights, x = packed(64, 128, weights_in), trapped(torch.randn(count, 64) / 100)
        y = trapped(torch.randn(count, 128).to(weights_in if weights_in.is_floating_point else torch.float16))
        expected = exact(x)
        product_add(x, y, weights)
    plain.product_add(expected, exact(y), exact(weights))
    assert error(x, expected) < 1e-5


@pytest.mark.parametrize("weights_in", [torch.float16, torch.uint8], ids=str)
def test_what_few_rows_give_does_not_depend_on_how_many_there_are(weights_in: torch.dtype):
    weights, streams = packed(64, 192, weights_in), torch.randn(1, 7, 192).half()
    (together,) = products(streams, weights)
    for i in range(7):
        (alone,) = products(streams[:, i : i + 1].contiguous(), weights)
        assert torch.equal(alone[0], together[i])


def test_small_numbers_keep_their_digits_in_tanh():
    weights = Packed.single(torch.eye(64), activation=Activation.TANH)
    streams = torch.logspace(-6, 1, 64).expand(1, 1, 64).contiguous()
    (result,) = products(streams, weights)
    assert torch.allclose(result.double(), streams[0].double().tanh(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("weights_in", [*DTYPES, torch.int8], ids=str)
@pytest.mark.parametrize("wanted", [[5, 0], list(range(9))], ids=len)
def test_logits_are_those_of_the_chosen_rows(weights_in: torch.dtype, wanted: list[int]):
    dtype = torch.float16 if weights_in is torch.int8 else weights_in
    with traps():
        head, x, final, chosen = (
            packed(77, 128, weights_in),
            trapped(torch.randn(12, 128)),
            norm(128),
            torch.tensor(wanted).int(),
        )
        logits = FusedOperators().logits(x, chosen, final, head, dtype)
    assert logits.dtype is torch.float32
    expected = plain.logits(exact(x), chosen, exact(final), exact(head), torch.float64)
    assert error(logits, expected) < (1e-5 if dtype is torch.float32 else 1e-3)


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    parts = (Part(2048), Part(96, 1, Activation.TANH), Part(2048, 2))

    def call(count: int, weights: Packed) -> Callable[[], object]:
        streams = torch.empty(3, count, 2048, dtype=dtype)
        return lambda: products(streams, weights)

    def weights(kind: torch.dtype) -> Packed:
        weight, *scales = uninitialised(4192, 2048, kind)
        return Packed(weight, parts, *scales)

    yield "few", call(8, weights(dtype))
    if dtype is not torch.float32:
        yield "some", call(32, weights(dtype))
        yield "many, int4", call(1024, weights(torch.uint8))
    yield "many", lambda: product_add(torch.empty(1024, 2048), torch.empty(1024, 2048, dtype=dtype), _square(dtype))
    if dtype is torch.float16:
        yield "one, int8", call(1, weights(torch.int8))
        yield "eight, int4", call(8, weights(torch.uint8))
        yield "many, int8", call(1024, weights(torch.int8))


def _square(dtype: torch.dtype) -> Packed:
    return Packed.single(torch.empty(2048, 2048, dtype=dtype))


def test_the_kernels_compile_without_spilling():
    bounds = {"_few_rows": (144, 208), "_many_rows": (208, 136)}  # on NVIDIA, on AMD
    for kernel in compiled(__name__):
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= bounds[kernel.name][kernel.target == "gfx942"], kernel
