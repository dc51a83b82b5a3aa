"""What a header says of one tensor."""

import math
from typing import NamedTuple

import msgspec

# Names as in safetensors; the 8-bit floats and other new kinds are left out until an engine computes with them.
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

MAX_TENSORS = 10_000
MAX_DIMENSIONS = 8


class TensorHeader(msgspec.Struct, frozen=True):
    """One tensor: `bytes` is what its elements take, `file` the name of the file that holds them."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class Place(NamedTuple):
    """Where the numbers of a tensor lie in its file: the first one at byte `offset`, `strides` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]
