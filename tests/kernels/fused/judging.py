"""How the fused operators are judged: by the plain ones in float64, from the same numbers, with traps around all memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from cortexd_kernels.native.layout import pack
from cortexd_kernels.operators import Activation, Norm, Packed, Part
from cortexd_kernels.pairs import Weight, laid_out, widened
from cortexd_kernels.plain import PlainOperators

plain = PlainOperators()
DTYPES = (torch.float32, torch.float16)
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3}
_BAND = 512  # numbers before and after each tensor
_empty = torch.empty


def exact(value: Any) -> Any:
    """In float64: a tensor, or whatever holds tensors."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value.clone()
    if isinstance(value, Packed) and value.scales is not None:
        return Packed(wide(value.weight, value.scales, value.groups), value.parts)
    if isinstance(value, tuple):
        parts = [exact(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value):
        return type(value)(*(exact(getattr(value, field.name)) for field in fields(value) if field.init and field.repr))
    return value


def wide(weight: Tensor, scales: Tensor | None, groups: Tensor | None) -> Tensor:
    """What `Packed` or `Columns` hold, in float64."""
    numbers = (weight if groups is None else widened(weight, groups)).double()
    return numbers if scales is None else numbers * scales.double().unsqueeze(1)


def error(result: Tensor, expected: Tensor) -> float:
    """Relative RMS; NaN where any number is."""
    assert result.shape == expected.shape
    return float((result.double() - expected).norm() / expected.norm())


def close(result: Tensor, expected: Tensor) -> bool:
    return error(result, expected) < TOLERANCES[result.dtype]


@contextmanager
def traps() -> Iterator[None]:
    """What is allocated within, and by `trapped`, holds NaN and lies between numbers that nobody may change."""
    allocated: list[tuple[Tensor, Tensor]] = []

    def allocate(*shape: Any, dtype: torch.dtype = torch.float32, device: Any = None) -> Tensor:
        size = torch.Size(shape[0] if shape and not isinstance(shape[0], int) else shape)
        buffer = torch.full((size.numel() + 2 * _BAND,), torch.nan if dtype.is_floating_point else 99, dtype=dtype)
        allocated.append((buffer, buffer.view(torch.uint8).clone()))
        return buffer[_BAND:-_BAND].view(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", allocate)
        patch.setattr(torch, "empty_like", lambda tensor: allocate(tensor.shape, dtype=tensor.dtype))
        yield
    for buffer, before in allocated:
        band, after = _BAND * buffer.element_size(), buffer.view(torch.uint8)
        assert torch.equal(after[:band], before[:band]), "something was written before a tensor"
        assert torch.equal(after[-band:], before[-band:]), "something was written after a tensor"


def trapped(values: Tensor) -> Tensor:
    """The same numbers where, within `traps`, what is read beside them is NaN."""
    place = torch.empty(values.shape, dtype=values.dtype)
    place[:] = values
    return place


def quantised(weight: Tensor, parts: tuple[Part, ...]) -> Packed:
    scales = weight.abs().amax(1) / 127
    return Packed(trapped((weight / scales.unsqueeze(1)).round().to(torch.int8)), parts, trapped(scales))


def in_pairs(weight: Tensor, parts: tuple[Part, ...]) -> Packed:
    """int4."""
    weight, *scales = (trapped(tensor) for tensor in laid_out(*pack(weight, torch.uint8)) if tensor is not None)
    return Packed(weight, parts, *scales)


def packed(rows: int, depth: int, dtype: torch.dtype, parts: tuple[Part, ...] = (), activation: int = 0) -> Packed:
    """Random weights, whose products with standard normal numbers are standard normal."""
    parts = parts or (Part(rows, 0, Activation(activation)),)
    weight = torch.randn(rows, depth) / depth**0.5
    if not dtype.is_floating_point:
        return quantised(weight, parts) if dtype is torch.int8 else in_pairs(weight, parts)
    return Packed(trapped(weight.to(dtype)), parts)


def uninitialised(rows: int, columns: int, dtype: torch.dtype) -> Weight:
    """A matrix in any format, to compile for."""
    if dtype is torch.uint8:
        return (
            torch.empty(rows, columns // 2, dtype=dtype),
            torch.empty(rows),
            torch.empty(rows, columns // 128, dtype=torch.int32),
        )
    return torch.empty(rows, columns, dtype=dtype), torch.empty(rows) if dtype is torch.int8 else None, None


def norm(width: int) -> Norm:
    return Norm(trapped(torch.randn(width)), trapped(torch.randn(width)))
