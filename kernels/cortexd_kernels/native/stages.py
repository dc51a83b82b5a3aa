"""The parts of a step as single native calls, for use between products that another library computes.

All tensors are contiguous float32 on the CPU, but for weights. `slots` and `lengths` say whose the T rows are: pieces of sequences,
laid end to end. Every row depends on its own sequence alone, to the last bit.
"""

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cortexd_kernels.native import structures as c
from cortexd_kernels.native.layout import columns_of
from cortexd_kernels.native.threads import Threads


def product(threads: Threads, weight: Tensor, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """x Wᵀ in fp32 for a weight of any format: weight `[out, in]`, x `[T, in]` → `[T, out]`; `scales` `[out]` belong to int8."""
    assert x.shape[1] == columns_of(weight)
    y = torch.empty(x.shape[0], weight.shape[0])
    matrix = c.matrix(weight, scales)
    threads.call("cortexd_product", ctypes.byref(matrix), c.floats(x), x.shape[0], c.floats(y))
    return y


def add_value(threads: Threads, columns: Tensor, activations: Tensor, x: Tensor, scales: Tensor | None = None) -> None:
    """x `[T, C]` += activations `[T, F]` · columns `[F, C]`, reading only what meets an activation other than zero."""
    assert activations.shape == (x.shape[0], columns.shape[0])
    assert x.shape[1] == columns_of(columns)
    assert x.shape[1] % 64 == 0
    matrix = c.matrix(columns, scales)
    threads.call("cortexd_add_value", ctypes.byref(matrix), c.floats(activations), x.shape[0], c.floats(x))


def shift_mix(
    threads: Threads,
    x: Tensor,
    norm: tuple[Tensor, Tensor],
    mix: Tensor,
    slots: Sequence[int],
    lengths: Sequence[int],
    shift: Tensor,
) -> Tensor:
    """Layer norm, token shift and interpolation: x `[T, C]`, mix `[M, C]`, shift `[slots, C]`, updated in place → `[M, T, C]`."""
    (rows, width), mixes = x.shape, mix.shape[0]
    assert sum(lengths) == rows
    assert mix.numel() == mixes * width
    assert shift.shape[1] == width
    h, mixed = torch.empty_like(x), torch.empty(mixes, rows, width)
    how = c.ShiftMix(c.floats(norm[0]), c.floats(norm[1]), c.floats(mix), mixes, width)
    threads.call(
        "cortexd_shift_mix",
        ctypes.byref(c.pieces(slots, lengths)),
        ctypes.byref(how),
        *(c.floats(tensor) for tensor in (x, h, mixed, shift)),
    )
    return mixed


def time_mix(
    threads: Threads,
    weights: Mapping[str, Tensor],
    layer: int,
    streams: Mapping[str, Tensor],
    slots: Sequence[int],
    lengths: Sequence[int],
    wkv: Tensor,
) -> Tensor:
    """Everything between the products that make the streams and the output product, head by head.

    streams `[T, C]`: r, k, v, g, and w, a, v_mix before their bias and activation; v_first and v_mix in all layers but the first.
    wkv `[slots, H, 64, 64]` is updated in place; weights by the names of the checkpoint → `[T, C]`.
    """
    rows, width = streams["r"].shape
    assert sum(lengths) == rows
    assert wkv.shape[1:] == (width // 64, 64, 64)
    assert ("v_mix" in streams) == (f"blocks.{layer}.att.v0" in weights)
    y = torch.empty(rows, width)
    given = c.Streams(*(c.floats(streams.get(name)) for name in c.STREAMS))
    threads.call(
        "cortexd_time_mix",
        ctypes.byref(c.pieces(slots, lengths)),
        ctypes.byref(c.head_weights(weights, layer)),
        ctypes.byref(given),
        *(wkv.shape[1], c.floats(wkv), c.floats(y)),
    )
    return y
