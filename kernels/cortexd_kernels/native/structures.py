"""The structures of the C interface, field by field as native.cpp, stages.h and products.h have them."""

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from ctypes import c_double, c_int32, c_void_p

import torch
from torch import Tensor

from cortexd_kernels.native.layout import FORMATS, columns_of

_NUMBERS = {dtype: number for number, dtype in enumerate(FORMATS.values())}  # of formats
STREAMS = ("r", "w", "k", "v", "a", "v_mix", "v_first", "g")

_FLOATS = c_void_p  # float*
_INTS = ctypes.POINTER(c_int32)


class Matrix(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("scales", _FLOATS), ("rows", c_int32), ("columns", c_int32), ("format", c_int32))


class HeadWeights(ctypes.Structure):
    _fields_ = tuple((name, _FLOATS) for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k", "norm_weight", "norm_bias"))


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, _FLOATS) for name in ("ln1_weight", "ln1_bias", "mix")),
        *((name, Matrix) for name in ("receptance", "key", "value", "output")),
        *((name, Matrix) for name in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")),
        ("heads", HeadWeights),
        *((name, _FLOATS) for name in ("ln2_weight", "ln2_bias", "x_k")),
        *((name, Matrix) for name in ("ffn_key", "ffn_value")),
    )


class Model(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("layers", "width", "heads", "ffn_width")),
        ("layer", ctypes.POINTER(Layer)),
        *((name, _FLOATS) for name in ("ln0_weight", "ln0_bias", "out_weight", "out_bias")),
        *((name, Matrix) for name in ("embedding", "head")),
    )


class States(ctypes.Structure):
    _fields_ = (("att_shift", _FLOATS), ("ffn_shift", _FLOATS), ("wkv", _FLOATS), ("slots", c_int32))


class Pieces(ctypes.Structure):
    _fields_ = (("count", c_int32), ("first", _INTS), ("slots", _INTS))


class Mark(ctypes.Structure):
    _fields_ = (("row", c_int32), ("att_shift", _FLOATS), ("ffn_shift", _FLOATS), ("wkv", _FLOATS))


class Step(ctypes.Structure):
    _fields_ = (
        ("pieces", Pieces),
        ("tokens", _INTS),
        ("wanted", c_int32),
        ("wanted_rows", _INTS),
        ("logits", _FLOATS),
        ("mark_count", c_int32),
        ("marks", ctypes.POINTER(Mark)),
    )


class ShiftMix(ctypes.Structure):
    _fields_ = (*((name, _FLOATS) for name in ("weight", "bias", "mix")), ("mixes", c_int32), ("width", c_int32))


class Draw(ctypes.Structure):
    _fields_ = (
        *(("ids", c_void_p), ("added", _FLOATS)),
        *((name, c_double) for name in ("uniform", "temperature", "top_p", "min_p")),
        *((name, c_int32) for name in ("adjustments", "top_k", "rwkv_order")),
    )


class Streams(ctypes.Structure):
    _fields_ = tuple((name, _FLOATS) for name in STREAMS)


def ints(numbers: Sequence[int]) -> ctypes.Array[c_int32]:
    return (c_int32 * len(numbers))(*numbers)


def floats(tensor: Tensor | None) -> c_void_p:
    """The address of fp32 numbers that lie one after the other; the caller keeps the tensor alive."""
    if tensor is None:
        return c_void_p()
    assert tensor.dtype is torch.float32
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return c_void_p(tensor.data_ptr())


def matrix(weight: Tensor, scales: Tensor | None = None) -> Matrix:
    """Of a `[rows, columns]` weight in any format; the caller keeps it alive. `scales` `[rows]` belong to integers."""
    columns = columns_of(weight)
    assert weight.is_contiguous()
    assert columns % 32 == 0
    assert (scales is None) == weight.dtype.is_floating_point
    return Matrix(weight.data_ptr(), floats(scales), len(weight), columns, _NUMBERS[weight.dtype])


def pieces(slots: Sequence[int], lengths: Sequence[int]) -> Pieces:
    """Of pieces laid end to end, with their slots."""
    return Pieces(len(slots), ints([0, *itertools.accumulate(lengths)]), ints(slots))


def head_weights(tensors: Mapping[str, Tensor], layer: int) -> HeadWeights:
    """Of one layer, by the names of the checkpoint; layer 0 has no v0."""
    names = ("w0", "a0", "v0", "k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias")
    return HeadWeights(*(floats(tensors.get(f"blocks.{layer}.att.{name}")) for name in names))
