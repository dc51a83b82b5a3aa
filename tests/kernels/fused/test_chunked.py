"""The recurrence of long pieces in Triton, against its definition in float64."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cortexd_kernels import reference
from cortexd_kernels.fused import chunked
from cortexd_kernels.operators import HEAD, Rows, Streams
from tests.kernels.fused.compiling import compiled

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3}
REGISTERS = {"_solve": 255, "_transition": 176, "_carry": 136, "_output": 255}


def random_streams(count: int, heads: int, dtype: torch.dtype) -> Streams:
    """As a model has them: v, and with it r and k, are columns of a wider matrix."""

    def numbers() -> Tensor:
        return torch.randn(count, heads, HEAD)

    kappa, a, w = reference.normalise_heads(numbers()), torch.sigmoid(numbers()), reference.decay(2 * numbers())
    r, k, v, g = torch.randn(count, 4, heads * HEAD).to(dtype).unbind(1)
    return Streams(r, w.flatten(1), k, v, kappa.flatten(1).to(dtype), a.flatten(1).to(dtype), g)


def with_nearly_the_same_key(streams: Streams) -> Streams:
    """Each token removes what the one before it wrote: the powers of such a triangular matrix grow without bound."""
    shape = (-1, streams.k.shape[1] // HEAD, HEAD)
    keys = streams.kappa.float().view(shape)
    kappa = reference.normalise_heads(keys[:1] + 0.02 * keys).flatten(1).to(streams.kappa.dtype)
    return streams._replace(kappa=kappa, a=torch.ones_like(streams.a), w=torch.full_like(streams.w, 0.999))


def defined(streams: Streams, rows: Rows, state: Tensor) -> tuple[Tensor, Tensor]:
    """y and the new states in float64; NaN for masked pieces."""
    wide = [stream.double().unflatten(1, (-1, HEAD)) for stream in streams[:6]]
    y, state = torch.full_like(wide[0], torch.nan), state.double()
    starts = rows.starts.tolist()
    for start, end, slot in zip(starts, starts[1:], rows.slots.tolist(), strict=False):
        if slot >= 0:
            piece = (stream[start:end].unsqueeze(0) for stream in wide)
            result, new = reference.wkv7_recurrent(*piece, state[slot].unsqueeze(0))
            y[start:end], state[slot] = result[0], new[0]
    return y.flatten(1), state


def relative_rms(result: Tensor, expected: Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("inputs", ["random", "fastest decay", "no decay", "same key"])
def test_a_long_piece_is_its_definition(inputs: str, dtype: torch.dtype):
    streams = random_streams(130, 1, dtype)
    if inputs == "same key":
        streams = with_nearly_the_same_key(streams)
    elif inputs != "random":
        streams = streams._replace(w=torch.full_like(streams.w, 0.5453 if inputs == "fastest decay" else 1.0))
    state = torch.randn(1, 1, HEAD, HEAD)
    rows = Rows.of([130], [0])
    expected, expected_state = defined(streams, rows, state)
    y = chunked.recurrence(streams, rows, state)
    assert relative_rms(y, expected) < TOLERANCE[dtype]
    assert relative_rms(state, expected_state) < TOLERANCE[dtype]


def test_pieces_of_any_length_use_their_own_slots_and_leave_everything_else_alone():
    dtype, lengths, slots = torch.float16, [1, 64, 7, 65, 2], [5, 0, -1, 3, 6]
    rows, count = Rows.of(lengths, slots), sum(lengths)
    masked = (rows.slots < 0)[rows.piece_of]
    inputs = [
        torch.full((count + 2, 2 * HEAD), torch.nan, dtype=stream.dtype) for stream in random_streams(1, 2, dtype)
    ]
    for within, stream in zip(inputs, random_streams(count, 2, dtype), strict=True):
        within[1:-1] = stream.masked_fill(masked.unsqueeze(1), torch.nan)
    streams = Streams(*(within[1:-1] for within in inputs))
    state = torch.randn(8, 2, HEAD, HEAD)
    state[[1, 2, 4, 7]] = torch.nan
    expected, expected_state = defined(streams, rows, state)

    written = torch.full((count + 2, 2 * HEAD), torch.nan)
    y = chunked.recurrence(streams, rows, state, written[1:-1])

    assert written.isnan().all(1).tolist() == [True, *masked.tolist(), True]
    assert relative_rms(y[~masked], expected[~masked]) < TOLERANCE[dtype]
    assert state.isnan().flatten(1).all(1).nonzero().flatten().tolist() == [1, 2, 4, 7]
    used = [0, 3, 5, 6]
    assert relative_rms(state[used], expected_state[used]) < TOLERANCE[dtype]


def test_pieces_that_are_too_short_are_left_alone():
    rows = Rows.of([3, 66, 1, 5], [2, 0, 3, 1])
    streams = random_streams(75, 1, torch.float32)
    state = torch.randn(4, 1, HEAD, HEAD)
    before, (expected, expected_state) = state.clone(), defined(streams, rows, state)
    y = chunked.recurrence(streams, rows, state, torch.full((75, HEAD), 7.0), least=5)
    assert (y == 7.0).all(1).nonzero().flatten().tolist() == [0, 1, 2, 69]
    assert relative_rms(y[[*range(3, 69), *range(70, 75)]], expected[[*range(3, 69), *range(70, 75)]]) < 1e-5
    assert torch.equal(state[2:], before[2:])
    assert relative_rms(state[:2], expected_state[:2]) < 1e-5


def test_a_piece_has_the_same_bits_alone_and_beside_others():
    streams, states = random_streams(90, 1, torch.float16), torch.randn(2, 1, HEAD, HEAD)
    together, alone = states.clone(), states.clone()
    y = chunked.recurrence(streams, Rows.of([20, 70], [1, 0]), together)
    second = Streams(*(stream[20:] for stream in streams))
    assert torch.equal(chunked.recurrence(second, Rows.of([70], [0]), alone), y[20:])
    assert torch.equal(alone[0], together[0])


def test_more_pieces_than_are_looked_at_together_find_their_chunks():
    count = 130
    rows = Rows.of([1] * count + [65], [-1] * count + [0])
    streams = random_streams(count + 65, 1, torch.float32)
    state = torch.randn(1, 1, HEAD, HEAD)
    expected, expected_state = defined(streams, rows, state)
    y = chunked.recurrence(streams, rows, state)
    assert relative_rms(y[count:], expected[count:]) < 1e-5
    assert relative_rms(state, expected_state) < 1e-5


def test_pieces_that_are_too_short_need_no_memory_of_chunks():
    assert chunked.most_chunks(64 + 256, pieces=65, least=64) == 10


@given(st.lists(st.integers(1, 300), min_size=1), st.integers(1, 200))
def test_there_is_memory_for_every_chunk(lengths: list[int], least: int):
    needed = sum(-(-length // chunked.CHUNK) for length in lengths if length >= least)
    assert needed <= chunked.most_chunks(sum(lengths), len(lengths), least)


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    wide = torch.empty(1024, 4, 2048, dtype=dtype).unbind(1)
    narrow = torch.empty(1024, 2048, dtype=dtype)
    streams = Streams(wide[0], torch.empty(1024, 2048), wide[1], wide[2], narrow, narrow, wide[3])
    yield "prompt", lambda: chunked.recurrence(streams, Rows.of([1024], [0]), torch.empty(1, 32, HEAD, HEAD))


def test_every_kernel_compiles_without_spilling():
    found = compiled(__name__)
    assert {kernel.name for kernel in found} == set(REGISTERS)
    for kernel in found:
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= REGISTERS[kernel.name], kernel
