"""How weights lie best for the native kernels."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

# int4 has no type in PyTorch: it lies in bytes, whose type has no other use here.
FORMATS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "int4": torch.uint8,
}
NAMES = {dtype: name for name, dtype in FORMATS.items()}
COLUMNS = "ffn.value.columns"
_LOW_RANK = frozenset(f"{kind}{side}" for kind in "wavg" for side in "12")
_LARGEST = 127
GROUP = 32  # columns with one scale in int4,
GROUP_BYTES = 17  # and what they take
_LEVELS = (7.5, 8.0, 8.5)  # that are tried for the largest number of a group: -8 is the last there is
_NUMBERS = 2**18  # that are quantised at once: a head as a whole would take three times its bytes, and miss the cache


def native_layout(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """From prepared tensors to those `NativeModel` takes, large matrices in `dtype`, one after the other.

    `ffn.value.weight` `[C, F]` becomes `ffn.value.columns` `[F, C]`. Beside each matrix of integers stand `<name>.scales`. Integers
    leave low-rank matrices and the embedding, of which a step reads little, in bf16, and int4 leaves the head in int8. What
    is right already stays where it lies.
    """
    few = dtype if dtype.is_floating_point else torch.bfloat16
    for name, tensor in tensors:
        if name.endswith("ffn.value.weight"):
            name, tensor = name.replace("ffn.value.weight", COLUMNS), tensor.t()
        if tensor.dim() != 2 or name.endswith("r_k"):
            yield name, tensor
        elif name == "emb.weight" or name.rpartition(".")[2] in _LOW_RANK:
            yield name, tensor.to(few).contiguous()
        else:
            is_head = name == "head.weight"
            numbers, scales = pack(tensor, torch.int8 if is_head and dtype is torch.uint8 else dtype)
            if scales is not None:
                yield f"{name}.scales", scales
            yield name, numbers


def pack(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A matrix `[rows, columns]` in a format; with integers come fp32 scales `[rows]`."""
    if dtype is torch.int8:
        return _by_rows(matrix)
    if dtype is torch.uint8:
        return _by_groups(matrix)
    return matrix.to(dtype).contiguous(), None


def unpack(numbers: Tensor, scales: Tensor | None = None) -> Tensor:
    """What a format holds, in fp32."""
    if numbers.dtype is torch.uint8:
        groups = numbers.view(torch.int8).view(len(numbers), -1, GROUP_BYTES)
        pairs, group_scales = groups.split((GROUP_BYTES - 1, 1), -1)
        numbers = torch.cat((pairs << 4 >> 4, pairs >> 4), -1).mul(group_scales.short()).view(len(numbers), -1)
    return numbers.float() if scales is None else numbers.float() * scales.unsqueeze(1)


def columns_of(numbers: Tensor) -> int:
    """Of a matrix in any format."""
    return numbers.shape[1] * GROUP // GROUP_BYTES if numbers.dtype is torch.uint8 else numbers.shape[1]


def _by_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int8 `[rows, columns]` and fp32 scales `[rows]`: the number of largest size in each row becomes ±127."""
    numbers = torch.empty(matrix.shape, dtype=torch.int8)
    scales = torch.empty(len(matrix))
    for part in _parts(matrix):
        rows = matrix[part].float()
        scale = rows.abs().amax(1) / _LARGEST
        # A row of zeros has scale zero; and what is not a number must stay visible, which int8 cannot do.
        numbers[part] = (rows / torch.where(scale > 0, scale, 1.0).unsqueeze(1)).round_()
        scales[part] = scale
    return numbers, scales


def _by_groups(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int4 `[rows, columns · 17/32]` of bytes, and fp32 scales `[rows]`.

    Of each 32 columns there are 16 pairs, column i in the lower and i + 16 in the upper half of byte i, and then what multiplies
    them: -127 to 127 times the row's scale.
    """
    count = matrix.shape[1] // GROUP
    packed = torch.empty(len(matrix), count, GROUP_BYTES, dtype=torch.int8)
    scales = torch.empty(len(matrix))
    for part in _parts(matrix):
        # Groups side by side, for sums over what lies apart are the fast ones.
        groups = matrix[part].float().reshape(-1, GROUP).t().contiguous()
        wanted = _best_scales(groups).view(-1, count)
        row_scales = wanted.abs().amax(1, keepdim=True) / _LARGEST
        steps = (wanted / row_scales).nan_to_num_().round_()
        # What a scale of zero makes of zeros is none; and what was not a number before is so by its scale.
        nearest = (groups / (steps * row_scales).view(-1)).nan_to_num_().round_().clamp_(-8, 7).to(torch.int8)
        lower, upper = nearest.split(GROUP // 2)
        pairs = (lower & 15) | (upper << 4)
        packed[part, :, :-1] = pairs.t().view(-1, count, GROUP // 2)
        packed[part, :, -1] = steps
        scales[part] = row_scales.squeeze(1)
    return packed.view(torch.uint8).view(len(matrix), -1), scales


def _best_scales(groups: Tensor) -> Tensor:
    """`[32, groups]` → `[groups]`: whichever leaves the least squared error, by least squares for each rounding that is tried."""
    most, least = groups.amax(0), groups.amin(0)
    largest = torch.where(most > -least, most, least)
    parts = groups / largest
    best = scale = largest * 0.0  # where it is zero or not a number, nothing below is greater, and this stays
    for levels in _LEVELS:
        near = (parts * -levels).round_().clamp_(-8, 7)
        squares = (near * near).sum(0)
        product = near.mul_(parts).sum(0)
        removed = product * product / squares  # of the sum of the squares of `parts`
        better = removed > best
        best = torch.where(better, removed, best)
        scale = torch.where(better, product / squares * largest, scale)
    return scale


def _parts(matrix: Tensor) -> Iterator[slice]:
    rows = max(1, _NUMBERS // matrix.shape[1])
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))
