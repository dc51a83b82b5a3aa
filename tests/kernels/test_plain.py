"""The plain operators, where they choose between forms; the whole of them is held to the official package by the model's tests."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cortexd_kernels import reference
from cortexd_kernels.operators import HEAD, Mix, Norm, Readout, Rows, Streams
from cortexd_kernels.plain import PlainOperators

WIDTH = 2 * HEAD


def streams(count: int) -> Streams:
    def draw() -> Tensor:
        return torch.randn(count, WIDTH, dtype=torch.float64)

    kappa = reference.normalise_heads(draw().unflatten(1, (-1, HEAD))).flatten(1)
    return Streams(draw(), reference.decay(draw()), draw(), draw(), kappa, torch.sigmoid(draw()), draw())


def readout() -> Readout:
    return Readout(*torch.randn(1, WIDTH).double(), Norm(*torch.randn(2, WIDTH).double()))


def alone(given: Streams, weights: Readout, state: Tensor) -> Tensor:
    """One piece by the reference, token after token."""
    r, w, k, v, kappa, a = (stream.unflatten(1, (-1, HEAD)).unsqueeze(0) for stream in given[:6])
    y, new = reference.wkv7_recurrent(r, w, k, v, kappa, a, state.unsqueeze(0))
    state[:] = new[0]
    bonus = (r * k * weights.r_k.view(-1, HEAD)).sum(-1, keepdim=True) * v
    return (reference.head_norm(y[0].flatten(1), *weights.norm, heads=2) + bonus[0].flatten(1)) * given.g


@pytest.mark.parametrize(("lengths", "slots"), [([1, 1], [3, 0]), ([20], [2]), ([1, 3, 40, 1], [1, 0, 3, 2])], ids=str)
def test_each_piece_is_computed_as_if_it_were_alone(lengths: Sequence[int], slots: Sequence[int]):
    given, weights, state = streams(sum(lengths)), readout(), torch.randn(4, 2, HEAD, HEAD).double()
    expected_state = state.clone()
    y = PlainOperators().wkv(given, Rows.of(lengths, slots), state, weights)
    start = 0
    for length, slot in zip(lengths, slots, strict=True):
        part = Streams(*(stream[start : start + length] for stream in given))
        assert torch.allclose(y[start : start + length], alone(part, weights, expected_state[slot]), atol=1e-10)
        start += length
    assert torch.allclose(state, expected_state, atol=1e-10)


def test_a_masked_piece_gives_zeros_and_leaves_all_states():
    given, state = streams(3), torch.randn(2, 2, HEAD, HEAD).double()
    before = state.clone()
    y = PlainOperators().wkv(given, Rows.of([1, 2], [-1, -1]), state, readout())
    assert torch.equal(y, torch.zeros(3, WIDTH).double())
    assert torch.equal(state, before)


def test_a_row_is_mixed_with_the_one_before_it_in_its_piece():
    x, state = torch.randn(4, WIDTH).double(), torch.randn(3, WIDTH).double()
    weights = Mix(Norm(*torch.randn(2, WIDTH).double()), torch.rand(2, WIDTH).double())
    h, before = reference.layer_norm(x, *weights.norm), state.clone()
    mixed = PlainOperators().shift_mix(x, Rows.of([2, 1, 1], [1, -1, 0]), state, weights, torch.float64)
    previous = torch.stack((before[1], h[0], torch.zeros(WIDTH).double(), before[0]))
    for stream in range(2):
        assert torch.allclose(mixed[stream], h + (previous - h) * weights.mix[stream])
    assert torch.equal(state, torch.stack((h[3], h[1], before[2])))
