"""Each native part of a step against its definition in float64."""

import pytest
import torch
from torch import Tensor

from cortexd_kernels import reference
from cortexd_kernels.native.layout import pack, unpack
from cortexd_kernels.native.stages import add_value, product, shift_mix, time_mix
from cortexd_kernels.native.threads import Threads
from tests.kernels.native_library import native_or_skip

INT4 = torch.uint8
INTEGERS = [torch.int8, INT4]
FORMATS = [torch.float32, torch.bfloat16, torch.float16, *INTEGERS]
# Activations that meet integers are rounded to 16 bits; the weights' own error is some 6e-3, that of int4 8e-2.
INTEGER_TOLERANCE = 1e-4


@pytest.fixture
def threads() -> Threads:
    return Threads(native_or_skip(), 2)


def relative_rms(result: Tensor, expected: Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm())


def stored(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor]:
    """The weight in a format, its scales if it has any, and what they mean in float64."""
    numbers, scales = pack(weight, dtype)
    return numbers, scales, unpack(numbers, scales).double()


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (97, 192), (301, 320), (64, 32), (33, 288), (50, 4160)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9, 32])
def test_a_product_is_its_definition(threads: Threads, dtype: torch.dtype, rows: int, columns: int, count: int):
    weight, scales, exact = stored(torch.randn(rows, columns), dtype)
    x = torch.randn(count, columns)
    difference = product(threads, weight, x, scales) - x.double() @ exact.T
    usual = (
        x.double().norm(dim=1, keepdim=True) * exact.norm(dim=1) / columns**0.5
    )  # of few results, all may be next to zero
    assert difference.norm() / usual.norm() < (1e-6 if dtype.is_floating_point else INTEGER_TOLERANCE)


def least(dtype: torch.dtype, rows: int, columns: int) -> Tensor:
    """The lowest number there is, everywhere: -128, or -8 · 127."""
    if dtype is torch.int8:
        return torch.full((rows, columns), -128, dtype=torch.int8)
    group = torch.tensor([0x88] * 16 + [127], dtype=torch.uint8)
    return group.repeat(rows, columns // 32)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("columns", [32, 768, 4096, 16384])
@pytest.mark.parametrize("count", [1, 8])
def test_no_sum_of_integers_overflows(threads: Threads, dtype: torch.dtype, columns: int, count: int):
    weight = least(dtype, 25, columns)
    number = unpack(weight)[0, 0].double() * 0.01
    largest = torch.full((count, columns), -3.0)
    one_stands_out = torch.rand(count, columns)
    one_stands_out[:, 5] = 100.0
    for x in (largest, one_stands_out, torch.rand(count, columns)):
        y = product(threads, weight, x, torch.full((25,), 0.01))
        # Like numbers are all rounded the same way; a sum that overflowed would have another sign.
        assert relative_rms(y, number * x.double().sum(1, keepdim=True).expand(count, 25)) < 1e-3


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_hide_neither_zeros_nor_activations_that_are_not_numbers(threads: Threads, dtype: torch.dtype):
    weight, scales = pack(torch.randn(40, 96), dtype)
    x = torch.randn(4, 96)
    x[0] = 0.0
    x[1, 7], x[2, 90], x[3, 0] = torch.nan, torch.inf, -torch.inf
    y = product(threads, weight, x, scales)
    assert torch.equal(y[0], torch.zeros(40))
    assert y[1:].isnan().all()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_integers_hide_neither_rows_of_zeros_nor_weights_that_are_not_numbers(
    threads: Threads, dtype: torch.dtype, bad: float
):
    weight = torch.randn(5, 96)
    weight[1], weight[2, :32], weight[3, 40] = 0.0, 0.0, bad
    numbers, scales = pack(weight, dtype)
    for x in (torch.randn(1, 96), torch.randn(7, 96)):
        y = product(threads, numbers, x, scales)
        assert torch.equal(y[:, 1], torch.zeros(len(x)))
        assert not y[:, 3].isfinite().any()
        assert y[:, [0, 2, 4]].isfinite().all()
        into = torch.zeros(1, 64)
        columns, column_scales = pack(weight[:, :64], dtype)
        add_value(threads, columns, torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0]]), into, column_scales)
        assert not into[0, 40].isfinite()


def test_every_bfloat16_and_float16_is_read_as_it_is(threads: Threads):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(-1, 1)
    for dtype in (torch.bfloat16, torch.float16):
        weight = torch.zeros(2**16, 32, dtype=dtype)
        weight[:, :1] = bits.view(dtype)
        x = torch.zeros(1, 32)
        x[0, 0] = 1.0
        y = product(threads, weight, x)[0]
        expected = weight[:, 0].float()
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.nan_to_num(0.0), expected.nan_to_num(0.0))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("idle", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 3, 33])
def test_the_sparse_product_is_its_definition(threads: Threads, dtype: torch.dtype, idle: float, count: int):
    columns, scales, exact = stored(torch.randn(1312, 192), dtype)
    activations = torch.rand(count, 1312) * (torch.rand(count, 1312) >= idle)
    x = torch.randn(count, 192)
    expected = x.double() + activations.double() @ exact
    add_value(threads, columns, activations, x, scales)
    assert relative_rms(x, expected) < 1e-6


def test_an_activation_that_is_not_a_number_is_not_taken_for_zero(threads: Threads):
    activations, x = torch.zeros(1, 256), torch.zeros(1, 64)
    activations[0, 7] = torch.nan
    add_value(threads, torch.ones(256, 64), activations, x)
    assert x.isnan().all()


def test_rows_are_shifted_within_their_own_sequence(threads: Threads):
    lengths, slots, width = [1, 5, 2], [4, 0, 2], 192
    x, norm = torch.randn(8, width) * 3 + 1, (torch.rand(width), torch.randn(width))
    mix, shift = torch.rand(6, width), torch.randn(5, width)
    before = shift.clone()
    mixed = shift_mix(threads, x, norm, mix, slots, lengths, shift)
    h = reference.layer_norm(x.double(), norm[0].double(), norm[1].double())
    row = 0
    for slot, length in zip(slots, lengths, strict=True):
        own = h[row : row + length]
        previous = torch.cat((before[slot : slot + 1].double(), own[:-1]))
        expected = own + (previous - own) * mix.double().unsqueeze(1)
        assert relative_rms(mixed[:, row : row + length], expected) < 1e-6
        assert relative_rms(shift[slot], own[-1]) < 1e-6
        row += length
    assert torch.equal(shift[[1, 3]], before[[1, 3]])


def time_mix_inputs(rows: int, heads: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    width = 64 * heads
    names = ("w0", "a0", "v0", "k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias")
    weights = {f"blocks.1.att.{name}": torch.randn(width) for name in names}
    streams = {name: torch.randn(rows, width) * 2 for name in ("r", "w", "k", "v", "a", "v_mix", "v_first", "g")}
    return weights, streams


def reference_time_mix(
    weights: dict[str, Tensor], streams: dict[str, Tensor], heads: int, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One sequence in float64: state `[H, 64, 64]`."""
    p = {name.removeprefix("blocks.1.att."): tensor.double() for name, tensor in weights.items()}
    s = {name: tensor.double() for name, tensor in streams.items()}

    def split(x: Tensor) -> Tensor:
        return x.reshape(1, -1, heads, 64)

    a = torch.sigmoid(p["a0"] + s["a"])
    v = s["v"] + (s["v_first"] - s["v"]) * torch.sigmoid(p["v0"] + s["v_mix"])
    kappa = reference.normalise_heads(split(s["k"] * p["k_k"]))
    k = split(s["k"] * (1 + (a - 1) * p["k_a"]))
    r, w = split(s["r"]), split(reference.decay(p["w0"] + s["w"]))
    y, state = reference.wkv7_recurrent(r, w, k, split(v), kappa, split(a), state.double().unsqueeze(0))
    normed = reference.head_norm(y.reshape(v.shape), p["ln_x.weight"], p["ln_x.bias"], heads)
    bonus = (r * k * p["r_k"].view(heads, 64)).sum(-1, keepdim=True) * split(v)
    return (normed + bonus.reshape(v.shape)) * s["g"], state[0]


@pytest.mark.parametrize("lengths", [[1], [128], [1, 40, 1, 3]], ids=str)
def test_the_time_mix_is_its_definition(threads: Threads, lengths: list[int]):
    heads, rows = 3, sum(lengths)
    weights, streams = time_mix_inputs(rows, heads)
    wkv = torch.randn(7, heads, 64, 64)
    before, slots = wkv.clone(), [5, 1, 6, 0][: len(lengths)]
    y = time_mix(threads, weights, 1, streams, slots, lengths, wkv)
    row = 0
    for slot, length in zip(slots, lengths, strict=True):
        own = {name: stream[row : row + length] for name, stream in streams.items()}
        expected, state = reference_time_mix(weights, own, heads, before[slot])
        assert relative_rms(y[row : row + length], expected) < 1e-5
        assert relative_rms(wkv[slot], state) < 2e-6
        row += length
    others = [slot for slot in range(7) if slot not in slots]
    assert torch.equal(wkv[others], before[others])


def test_nothing_is_written_beside_a_result(threads: Threads):
    guarded = torch.full((3, 2, 192), torch.nan)
    x = guarded[1]
    x.zero_()
    add_value(threads, torch.randn(256, 192), torch.rand(2, 256), x)
    assert guarded[[0, 2]].isnan().all()
    assert x.isfinite().all()
