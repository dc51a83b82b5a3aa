"""What the operators are given."""

import pytest
import torch

from cortexd_kernels.operators import Activation, Packed, Part, Rows


def test_rows_tell_where_each_piece_lies():
    rows = Rows.of([1, 3, 2], [4, -1, 0])
    assert rows.starts.tolist() == [0, 1, 4, 6]
    assert rows.slots.tolist() == [4, -1, 0]
    assert rows.piece_of.tolist() == [0, 1, 1, 1, 2, 2]
    assert (rows.pieces, rows.max_length) == (3, 3)
    assert {tensor.dtype for tensor in (rows.starts, rows.slots, rows.piece_of)} == {torch.int32}


@pytest.mark.parametrize(("lengths", "slots"), [([1, 0], [0, 1]), ([1], [0, 1])])
def test_a_piece_has_tokens_and_a_slot(lengths: list[int], slots: list[int]):
    with pytest.raises(AssertionError):
        Rows.of(lengths, slots)


def test_no_tile_holds_weights_of_two_parts():
    packed = Packed(torch.zeros(113, 64), (Part(32, 2), Part(64, 0, Activation.TANH), Part(17, 1, Activation.SIGMOID)))
    assert packed.tiles(32).tolist() == [[0, 32, 2, 0], [32, 64, 0, 1], [64, 96, 0, 1], [96, 113, 1, 2]]
    assert packed.tiles(64).tolist() == [[0, 32, 2, 0], [32, 96, 0, 1], [96, 113, 1, 2]]
    assert packed.tiles(64) is packed.tiles(64)


def test_results_are_split_as_the_parts_are():
    packed = Packed(torch.zeros(49, 64), (Part(32), Part(17)))
    results = torch.arange(98).reshape(2, 49)
    first, second = packed.split(results)
    assert torch.equal(first, results[:, :32])
    assert torch.equal(second, results[:, 32:])


def test_a_matrix_that_is_not_what_its_parts_say_is_refused():
    with pytest.raises(AssertionError, match="the parts are the matrix"):
        Packed(torch.zeros(64, 64), (Part(32),))
    with pytest.raises(AssertionError, match="a multiple of 32 rows"):
        Packed(torch.zeros(49, 64), (Part(17), Part(32)))
    with pytest.raises(AssertionError, match="int8"):
        Packed.single(torch.zeros(32, 64), torch.ones(32))
    with pytest.raises(AssertionError, match="int8"):
        Packed.single(torch.zeros(32, 64, dtype=torch.int8))
    with pytest.raises(AssertionError, match="int4"):
        Packed.single(torch.zeros(32, 64, dtype=torch.uint8), torch.ones(32))
    with pytest.raises(AssertionError, match="int4"):
        Packed.single(torch.zeros(32, 64), groups=torch.ones(32, 2))
