"""The chunked recurrence against the sequential one in float64, and the sequential one against its formula."""

import pytest
import torch
from torch import Tensor

from cortexd_kernels import reference


def relative_rms(result: Tensor, expected: Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm())


def streams(batch: int, length: int, heads: int, n: int, *, decay_bias: float = 0.0) -> list[Tensor]:
    """r, w, k, v, kappa, a and a state, fresh at every run, in float64."""
    shape = (batch, length, heads, n)
    draw = torch.randn
    w = reference.decay(3 * draw(shape, dtype=torch.float64) + decay_bias)
    kappa = reference.normalise_heads(draw(shape, dtype=torch.float64))
    a = torch.sigmoid(draw(shape, dtype=torch.float64))
    r, k, v = (draw(shape, dtype=torch.float64) for _ in range(3))
    return [r, w, k, v, kappa, a, draw(batch, heads, n, n, dtype=torch.float64)]


def test_a_step_is_its_formula():
    r, w, k, v, kappa, a, state = streams(1, 1, 1, 8)
    y, new = reference.wkv7_step(r[:, 0], w[:, 0], k[:, 0], v[:, 0], kappa[:, 0], a[:, 0], state)
    r, w, k, v, kappa, a = (x[0, 0, 0] for x in (r, w, k, v, kappa, a))
    s = state[0, 0]
    expected = s @ torch.diag(w) - torch.outer(s @ kappa, kappa * a) + torch.outer(v, k)
    assert relative_rms(new[0, 0], expected) < 1e-14
    assert relative_rms(y[0, 0], expected @ r) < 1e-14


@pytest.mark.parametrize("chunk", [16, 32, 64, 128])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100, 257])
def test_chunks_compute_what_single_steps_do(length: int, chunk: int):
    inputs = streams(2, length, 3, 64)
    y, state = reference.wkv7_recurrent(*inputs)
    y_chunked, state_chunked = reference.wkv7_chunked(*(x.float() for x in inputs), chunk=chunk)
    assert y_chunked.shape == y.shape
    assert relative_rms(y_chunked, y) < 2e-6
    assert relative_rms(state_chunked, state) < 2e-6


def test_the_fastest_decay_does_not_overflow_a_chunk():
    inputs = streams(1, 128, 1, 64, decay_bias=40.0)  # w = 0.5453 everywhere
    y, state = reference.wkv7_recurrent(*inputs)
    y_chunked, state_chunked = reference.wkv7_chunked(*(x.float() for x in inputs), chunk=128)
    assert relative_rms(y_chunked, y) < 2e-6
    assert relative_rms(state_chunked, state) < 2e-6


def test_a_step_is_bitwise_the_same_alone_and_beside_others():
    r, w, k, v, kappa, a, state = (x.float() for x in streams(16, 1, 12, 64))
    together, states = reference.wkv7_step(r[:, 0], w[:, 0], k[:, 0], v[:, 0], kappa[:, 0], a[:, 0], state)
    for row in range(16):
        one = slice(row, row + 1)
        alone, its_state = reference.wkv7_step(
            r[one, 0], w[one, 0], k[one, 0], v[one, 0], kappa[one, 0], a[one, 0], state[one]
        )
        assert torch.equal(alone, together[one])
        assert torch.equal(its_state, states[one])


def test_inputs_are_left_as_they_were():
    inputs = [x.float() for x in streams(1, 40, 2, 64)]
    copies = [x.clone() for x in inputs]
    reference.wkv7_chunked(*inputs)
    reference.wkv7_recurrent(*inputs)
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))


def test_gradients_pass_through_the_chunked_form():
    inputs = [x.requires_grad_() for x in streams(1, 10, 1, 8)]
    assert torch.autograd.gradcheck(lambda *x: reference.wkv7_chunked(*x, chunk=4), inputs, eps=1e-6, atol=1e-4)
