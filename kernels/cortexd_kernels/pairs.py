"""int4 as the operators take it: two columns in a byte, and what scales 32 of them apart, for 17 bytes would lie across words."""

import torch
from torch import Tensor

from cortexd_kernels.native.layout import GROUP, GROUP_BYTES

Weight = tuple[Tensor, Tensor | None, Tensor | None]  # with scales, and groups: as in `Packed` and `Columns`


def laid_out(numbers: Tensor, scales: Tensor | None) -> Weight:
    """From a matrix in any format, as `native_layout` gives it."""
    if numbers.dtype is not torch.uint8:
        return numbers, scales, None
    pairs, groups = paired(numbers)
    return pairs, scales, groups


def paired(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """From int4 as `native_layout` gives it `[R, C · 17/32]`: uint8 `[R, C/2]`, in byte j column 2j in the lower half and 2j + 1 in
    the upper, and int8 `[R, C/32]`, which times the scale of the row is that of a group.
    """
    groups = numbers.view(len(numbers), -1, GROUP_BYTES)
    even, odd = groups[..., :-1].unflatten(-1, (-1, 2)).unbind(-1)
    lower, upper = (even & 15) | (odd << 4), (even >> 4) | (odd & 240)
    return torch.cat((lower, upper), -1).flatten(1), groups[..., -1].view(torch.int8).contiguous()


def widened(pairs: Tensor, groups: Tensor) -> Tensor:
    """`[R, C]` in int16: what the scales of the rows multiply, at most 8 · 127."""
    signed = pairs.view(torch.int8)
    numbers = torch.stack((signed << 4 >> 4, signed >> 4), -1).view(*groups.shape, GROUP)
    return (numbers * groups.short().unsqueeze(-1)).flatten(1)
