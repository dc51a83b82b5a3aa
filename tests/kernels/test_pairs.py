"""int4 in pairs holds what int4 held."""

import pytest
import torch

from cortexd_kernels.native.layout import pack, unpack
from cortexd_kernels.operators import Columns
from cortexd_kernels.pairs import laid_out, paired, widened


@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (5, 96), (3, 256)])
def test_pairs_hold_the_same_weights(rows: int, columns: int):
    numbers, scales = pack(torch.randn(rows, columns), torch.uint8)
    assert scales is not None
    pairs, groups = paired(numbers)
    assert pairs.shape == (rows, columns // 2)
    assert groups.shape == (rows, -(-columns // 128))
    assert all(tensor.is_contiguous() for tensor in (pairs, groups))
    assert torch.equal(widened(pairs, groups) * scales.unsqueeze(1), unpack(numbers, scales))


def test_a_byte_holds_two_columns_side_by_side():
    matrix = torch.zeros(1, 64)
    matrix[0, 0], matrix[0, 1], matrix[0, 35] = -8.0, 3.0, -8.0
    pairs, _ = paired(pack(matrix, torch.uint8)[0])
    lower, upper = pairs.view(torch.int8) << 4 >> 4, pairs.view(torch.int8) >> 4
    assert (lower != 0).nonzero().tolist() == [[0, 0]]
    assert (upper != 0).nonzero().tolist() == [[0, 0], [0, 17]]


def test_what_is_not_a_number_stays_visible():
    matrix = torch.ones(2, 64)
    matrix[1, 40] = torch.nan
    weight, scales, groups = laid_out(*pack(matrix, torch.uint8))
    assert scales is not None
    assert groups is not None
    assert (widened(weight, groups) * scales.unsqueeze(1)).isnan().any(1).tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
def test_other_formats_are_taken_as_they_are(dtype: torch.dtype):
    numbers, scales = pack(torch.randn(3, 64), dtype)
    weight, own, groups = laid_out(numbers, scales)
    assert weight is numbers
    assert own is scales
    assert groups is None


def test_columns_know_how_wide_they_are():
    for dtype in (torch.float16, torch.int8, torch.uint8):
        assert Columns(*laid_out(*pack(torch.randn(3, 96), dtype))).width == 96
