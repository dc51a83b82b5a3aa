"""The recurrence, token after token, in Triton."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from cortexd_kernels.fused.wkv import wkv
from cortexd_kernels.operators import HEAD, Norm, Readout, Rows, Streams
from tests.kernels.fused.compiling import compiled
from tests.kernels.fused.judging import DTYPES, close, error, exact, norm, plain, trapped, traps

DECODES = ([1, 1, 1, 1], [3, -1, 0, 5])
SHORT = ([2, 1, 5, 3], [5, 2, -1, 0])
SLOTS = 6


def streams(count: int, width: int, dtype: torch.dtype) -> Streams:
    """As a layer makes them: r and v of one tensor, decays between their bounds, κ of length one in each head."""
    r, v = trapped(torch.randn(count, 2 * width).to(dtype)).split(width, dim=1)
    w = trapped(torch.exp(-0.6065306597126334 * torch.rand(count, width)))
    kappa = torch.nn.functional.normalize(torch.randn(count, width // HEAD, HEAD), dim=-1).flatten(1)
    k, a, g = (
        trapped(x.to(dtype)) for x in (torch.randn(count, width), torch.rand(count, width), torch.randn(count, width))
    )
    return Streams(r, w, k, v, trapped(kappa.to(dtype)), a, g)


def readout(width: int) -> Readout:
    return Readout(trapped(torch.randn(width)), norm(width))


def judge(
    lengths: Sequence[int],
    slots: Sequence[int],
    dtype: torch.dtype,
    heads: int = 2,
    splits: int | None = None,
    kept: torch.dtype = torch.float32,
) -> None:
    width, rows = heads * HEAD, Rows.of(lengths, slots)
    with traps():
        given, weights = streams(sum(lengths), width, dtype), readout(width)
        state = trapped(torch.randn(SLOTS, heads, HEAD, HEAD).to(kept))
        before, expected_state = state.clone(), exact(state)
        y = wkv(given, rows, state, weights, splits)
    expected = plain.wkv(exact(given), rows, expected_state, exact(weights))
    unused = sorted(set(range(SLOTS)) - set(slots))
    assert y.dtype is dtype
    assert close(y, expected)
    assert close(state, expected_state)
    assert torch.equal(state[unused], before[unused])
    assert torch.equal(
        y[(rows.slots < 0)[rows.piece_of]],
        torch.zeros(sum(lengths[i] for i in range(len(slots)) if slots[i] < 0), width),
    )


@pytest.mark.parametrize(("lengths", "slots"), [DECODES, ([2, 70], [4, 1])], ids=["decodes", "a long piece"])
def test_states_may_be_kept_in_half_the_bytes(lengths: list[int], slots: list[int]):
    judge(lengths, slots, torch.float16, heads=1, kept=torch.float16)


@pytest.mark.parametrize("length", [1, 66])
def test_a_state_that_is_too_large_for_fp16_becomes_its_largest_number_and_a_broken_one_stays_broken(length: int):
    given, rows = streams(length, HEAD, torch.float16), Rows.of([length], [0])
    state = torch.zeros(1, 1, HEAD, HEAD, dtype=torch.float16)
    given.v.fill_(0.0)
    given.v[:, 0], given.v[:, 1], given.v[:, 2] = 60000.0, -60000.0, torch.nan
    given.k.fill_(2.0)
    wkv(given, rows, state, readout(HEAD))
    assert not state.isinf().any()
    assert state[0, 0, 0].max() == 65504.0
    assert state[0, 0, 1].min() == -65504.0
    assert state[0, 0, 2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 2, 4])
@pytest.mark.parametrize(("lengths", "slots"), [DECODES, SHORT], ids=["decodes", "short pieces"])
def test_every_piece_moves_its_own_state(dtype: torch.dtype, splits: int, lengths: list[int], slots: list[int]):
    judge(lengths, slots, dtype, splits=splits)


@pytest.mark.parametrize("lengths", [[1], [9], [1, 12]], ids=str)
def test_how_many_programs_share_a_head_is_chosen(lengths: list[int]):
    judge(lengths, [4, 1][: len(lengths)], torch.float32, heads=1)


def test_long_pieces_are_computed_by_chunks_beside_the_others():
    judge([1, 70, 3, 2], [2, 0, 5, -1], torch.float32, heads=1)


def test_a_piece_may_be_cut_anywhere():
    given, weights, state = streams(6, HEAD, torch.float32), readout(HEAD), torch.randn(1, 1, HEAD, HEAD)
    cut = state.clone()
    whole = wkv(given, Rows.of([6], [0]), state, weights)
    parts = []
    for start, end in ((0, 1), (1, 5), (5, 6)):
        piece = Streams(*(stream[start:end] for stream in given))
        parts.append(wkv(piece, Rows.of([end - start], [0]), cut, weights))
    assert error(torch.cat(parts), whole.double()) < 1e-6
    assert error(cut, state.double()) < 1e-6


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    width, heads = 2048, 32

    def call(lengths: list[int], splits: int, kept: torch.dtype = torch.float32) -> Callable[[], object]:
        count = sum(lengths)
        given = Streams(*(torch.empty(count, width, dtype=torch.float32 if i == 1 else dtype) for i in range(7)))
        state, rows = torch.empty(64, heads, HEAD, HEAD, dtype=kept), Rows.of(lengths, range(len(lengths)))
        weights = Readout(torch.empty(width), Norm(torch.empty(width), torch.empty(width)))
        return lambda: wkv(given, rows, state, weights, splits)

    yield "pieces", call([1, 32], 1)
    if dtype is torch.float16:
        yield "decodes", call([1] * 8, 1)
        yield "decodes of narrow states", call([1] * 8, 1, torch.float16)
        yield "split pieces", call([32], 4)


def test_the_kernels_compile_without_spilling():
    bounds = {"_recurrence": (160, 176), "_read_out": (40, 40)}  # on NVIDIA, on AMD
    for kernel in compiled(__name__):
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= bounds[kernel.name][kernel.target == "gfx942"], kernel
