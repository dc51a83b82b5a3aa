"""How weights lie best for the native kernels."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
COLUMNS = "ffn.value.columns"
_LOW_RANK = frozenset(f"{kind}{side}" for kind in "wavg" for side in "12")
_LARGEST = 127
_ROWS = 1024  # that are quantised at once: a head as a whole would take three times its bytes


def native_layout(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """From prepared tensors to those `NativeModel` takes, large matrices in `dtype`, one after the other.

    `ffn.value.weight` `[C, F]` becomes `ffn.value.columns` `[F, C]`. int8 adds `<name>.scales` to each large matrix and leaves
    low-rank matrices and the embedding, of which a step reads next to nothing, in bf16. What is right already stays where it lies.
    """
    few = torch.bfloat16 if dtype is torch.int8 else dtype
    for name, tensor in tensors:
        if name.endswith("ffn.value.weight"):
            name, tensor = name.replace("ffn.value.weight", COLUMNS), tensor.t()
        if tensor.dim() != 2 or name.endswith("r_k"):
            yield name, tensor
        elif name == "emb.weight" or name.rpartition(".")[2] in _LOW_RANK or dtype is not torch.int8:
            yield name, tensor.to(few).contiguous()
        else:
            numbers, scales = quantise(tensor)
            yield f"{name}.scales", scales
            yield name, numbers


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int8 `[rows, columns]` and fp32 scales `[rows]`: the number of largest size in each row becomes ±127."""
    numbers = torch.empty(matrix.shape, dtype=torch.int8)
    scales = torch.empty(len(matrix))
    for start in range(0, len(matrix), _ROWS):
        rows = matrix[start : start + _ROWS].float()
        scale = rows.abs().amax(1) / _LARGEST
        # A row of zeros has scale zero; and what is not a number must stay visible, which int8 cannot do.
        numbers[start : start + _ROWS] = (rows / torch.where(scale > 0, scale, 1.0).unsqueeze(1)).round_()
        scales[start : start + _ROWS] = scale
    return numbers, scales
