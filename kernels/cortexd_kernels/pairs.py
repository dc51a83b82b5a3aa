"""int4 as the operators take it: two columns in a byte, and what scales 32 of them apart, for 17 bytes would lie across words.

Four such scales are a word, the least that a GPU copies while it computes.
"""

import torch
import torch.nn.functional as F
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
    the upper; and int32 `[R, ⌈C/128⌉]`, whose bytes from the lowest on, signed, times the scale of the row are those of groups.
    """
    groups = numbers.view(len(numbers), -1, GROUP_BYTES)
    even, odd = groups[..., :-1].unflatten(-1, (-1, 2)).unbind(-1)
    lower, upper = (even & 15) | (odd << 4), (even >> 4) | (odd & 240)
    words = F.pad(groups[..., -1], (0, -groups.shape[1] % 4)).contiguous()
    return torch.cat((lower, upper), -1).flatten(1), words.view(torch.int32)


def widened(pairs: Tensor, groups: Tensor) -> Tensor:
    """`[R, C]` in int16: what the scales of the rows multiply, at most 8 · 127."""
    signed, count = pairs.view(torch.int8), pairs.shape[1] * 2 // GROUP
    numbers = torch.stack((signed << 4 >> 4, signed >> 4), -1).view(len(pairs), count, GROUP)
    return (numbers * groups.view(torch.int8)[:, :count].short().unsqueeze(-1)).flatten(1)
