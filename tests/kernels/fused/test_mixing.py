"""Layer norm, token shift and interpolations in Triton."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from cortexd_kernels.fused import mixing
from cortexd_kernels.operators import Mix, Norm, Rows
from tests.kernels.fused.compiling import compiled
from tests.kernels.fused.judging import DTYPES, close, error, exact, norm, plain, trapped, traps

DECODES = ([1, 1, 1], [4, -1, 0])
PROMPTS = ([3, 1, 2, 4], [2, 5, -1, 0])


def mix(width: int, streams: int) -> Mix:
    return Mix(norm(width), trapped(torch.rand(streams, width)))


def judge(lengths: Sequence[int], slots: Sequence[int], width: int, dtype: torch.dtype, streams: int = 6) -> None:
    with traps():
        rows, weights = Rows.of(lengths, slots), mix(width, streams)
        x, state = trapped(torch.randn(sum(lengths), width) * 3 + 1), trapped(torch.randn(6, width))
        untouched, expected_state = x.clone(), exact(state)
        mixed = mixing.shift_mix(x, rows, state, weights, dtype)
        expected = plain.shift_mix(exact(x), rows, expected_state, exact(weights), torch.float64)
    assert mixed.dtype is dtype
    assert close(mixed, expected)
    assert close(state, expected_state)
    assert torch.equal(x, untouched)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("lengths", "slots"), [DECODES, PROMPTS], ids=["decodes", "prompts"])
def test_every_row_is_mixed_with_the_one_before_it_in_its_own_piece(
    dtype: torch.dtype, lengths: list[int], slots: list[int]
):
    judge(lengths, slots, 192, dtype)


def test_a_row_may_be_split_among_programs():
    judge(*PROMPTS, 704, torch.float32, streams=1)


def test_where_there_are_many_rows_each_has_one_program():
    judge([20, 13], [1, 0], 640, torch.float32, streams=1)


def test_a_masked_piece_starts_from_zero_and_writes_no_state():
    rows, weights = Rows.of([2, 1], [-1, -1]), mix(64, 1)
    x, state = torch.randn(3, 64), torch.full((2, 64), torch.nan)
    mixed = mixing.shift_mix(x, rows, state, weights, torch.float32)
    assert state.isnan().all()
    h = torch.nn.functional.layer_norm(x, (64,), *weights.norm)
    previous = torch.stack((torch.zeros(64), h[0], torch.zeros(64)))
    assert error(mixed[0], h + (previous - h) * weights.mix) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_chosen_rows_are_normalised(dtype: torch.dtype):
    with traps():
        x, weights, chosen = trapped(torch.randn(5, 192)), norm(192), torch.tensor([4, 0, 2], dtype=torch.int32)
        x[1] = torch.nan
        h = mixing.normalised_rows(x, chosen, weights, dtype)
    expected = torch.nn.functional.layer_norm(x[chosen].double(), (192,), *exact(weights))
    assert h.dtype is dtype
    assert close(h, expected)


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    def call(lengths: list[int]) -> Callable[[], Tensor]:
        x, state = torch.empty(sum(lengths), 2048), torch.empty(8, 2048)
        weights = Mix(Norm(torch.empty(2048), torch.empty(2048)), torch.empty(6, 2048))
        return lambda: mixing.shift_mix(x, Rows.of(lengths, range(len(lengths))), state, weights, dtype)

    yield "prompt", call([64])
    if dtype is not torch.float16:
        return
    yield "decodes", call([1] * 4)
    x, weights, chosen = (
        torch.empty(8, 4096),
        Norm(torch.empty(4096), torch.empty(4096)),
        torch.empty(4, dtype=torch.int32),
    )
    yield "chosen", lambda: mixing.normalised_rows(x, chosen, weights, dtype)


def test_the_kernels_compile_without_spilling():
    bounds = {"_shift_mix": (96, 80), "_normalised_rows": (64, 64)}  # on NVIDIA, on AMD
    for kernel in compiled(__name__):
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= bounds[kernel.name][kernel.target == "gfx942"], kernel
