"""A whole model on the Triton operators: what the official package and the plain operators compute, however it is fed."""

from pathlib import Path

import pytest
import torch

from cortexd.rwkv.batch import Piece
from tests.kernels.fused.broad import fused
from tests.rwkv.fused_model import TOLERANCE, Model, compare_state, tokens, write_tiny
from tests.rwkv.oracle import Oracle


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The smallest there is: the interpreter takes a second for what a GPU does in a microsecond."""
    return write_tiny(tmp_path, layers=2, heads=1)


@pytest.mark.parametrize(("length", "cut"), [(4, 1), (13, 9)])
def test_a_prompt_read_token_by_token_or_in_pieces_is_that_of_the_official_package(tiny: Path, length: int, cut: int):
    ids = tokens(length)
    expected, expected_state = Oracle(tiny).forward(ids)
    model = Model(tiny, operators=fused())
    slot = model.pool.take()
    assert (model.feed(slot, ids, cut) - expected).abs().max() <= TOLERANCE
    compare_state(model, slot, expected_state)


def test_generating_beside_prompts_changes_no_number_of_either(tiny: Path):
    model = Model(tiny, operators=fused())
    prompts = [tokens(length) for length in (6, 1, 68, 9)]
    slots = [model.pool.take() for _ in prompts]
    model.feed(slots[0], prompts[0][:5], 5)
    pieces = [
        Piece(slots[0], prompts[0][5:]),
        *(Piece(slot, ids) for slot, ids in zip(slots[1:], prompts[1:], strict=True)),
    ]
    for slot, ids, logits in zip(slots, prompts, model.run(*pieces), strict=True):
        expected, expected_state = Oracle(tiny).forward(ids)
        # Of a prompt this short, heads may have next to no variance, by which their norm divides.
        assert (logits - expected).abs().max() <= (10 * TOLERANCE if len(ids) < 4 else TOLERANCE)
        compare_state(model, slot, expected_state)


def test_a_saved_state_goes_on_in_another_slot_among_others(tiny: Path):
    before, after, other = tokens(12), tokens(3), tokens(7)
    model = Model(tiny, operators=fused())
    slot = model.pool.take()
    model.feed(slot, before, 12)
    moved = model.pool.take()
    model.pool.restore(moved, model.pool.save(slot))
    model.pool.give_back(slot)
    found = model.run(Piece(model.pool.take(), other), Piece(moved, after))
    for ids, logits in zip((other, before + after), found, strict=True):
        expected, _ = Oracle(tiny).forward(ids)
        assert (logits - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8, torch.uint8])
def test_smaller_numbers_are_those_of_the_plain_operators(tiny: Path, dtype: torch.dtype):
    prompts = [tokens(4), tokens(1)]
    quick, plain = Model(tiny, dtype, operators=fused()), Model(tiny, dtype)
    for model in (quick, plain):
        model.pool.take(), model.pool.take()
    pieces = [Piece(slot, ids) for slot, ids in enumerate(prompts)]
    found, expected = quick.run(*pieces), plain.run(*pieces)
    assert (found - expected).pow(2).mean().sqrt() <= 0.02 * expected.pow(2).mean().sqrt()
