"""`Operators` in PyTorch on any device: the definition of the fused forms, and what computes where they cannot."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cortexd_kernels import reference
from cortexd_kernels.operators import (
    HEAD,
    Activation,
    Columns,
    Inner,
    LowRankOut,
    Mix,
    Norm,
    Packed,
    Readout,
    Rows,
    Streams,
)
from cortexd_kernels.pairs import widened

_CHUNKED = 16  # tokens from which on that is faster
_ACTIVATIONS = {
    Activation.NONE: lambda x: x,
    Activation.TANH: torch.tanh,
    Activation.SIGMOID: torch.sigmoid,
    Activation.RELU_SQUARED: reference.relu_squared,
}


class PlainOperators:
    """Computes in the dtypes it is given: all in float64, it judges."""

    sample = None  # logits are drawn from on the host

    def shift_mix(self, x: Tensor, rows: Rows, state: Tensor, weights: Mix, dtype: torch.dtype) -> Tensor:
        h = reference.layer_norm(x, *weights.norm)
        held = (rows.slots >= 0).unsqueeze(1)
        first, last, slots = rows.starts[:-1], rows.starts[1:] - 1, rows.slots.clamp(min=0)
        previous = h.roll(1, 0)
        previous[first] = torch.where(held, state[slots], 0.0).to(h.dtype)
        kept = held.squeeze(1)
        state[slots[kept]] = h[last[kept]].to(state.dtype)
        return (h + (previous - h) * weights.mix.unsqueeze(1)).to(dtype)

    def products(self, streams: Tensor, packed: Packed) -> tuple[Tensor, ...]:
        results = torch.empty(streams.shape[1], len(packed.weight), dtype=streams.dtype, device=streams.device)
        for i, (part, result) in enumerate(zip(packed.parts, packed.split(results), strict=True)):
            start = sum(other.rows for other in packed.parts[:i])
            matrix = (packed.weight, packed.scales, packed.groups)
            own = (None if tensor is None else tensor[start : start + part.rows] for tensor in matrix)
            result[:] = _ACTIVATIONS[part.activation](_product(streams[part.stream], *own))
        return packed.split(results)

    def head_streams(self, inner: Inner, weights: LowRankOut, v_first: Tensor | None) -> Streams:
        r, k, v, dtype = inner.r, inner.k, inner.v, inner.k.dtype
        w = reference.decay(weights.w0 + F.linear(inner.w_rank, weights.w))
        a = torch.sigmoid(weights.a0 + F.linear(inner.a_rank, weights.a))
        if inner.v_rank is not None and weights.v is not None and weights.v0 is not None and v_first is not None:
            v = v + (v_first - v) * torch.sigmoid(weights.v0 + F.linear(inner.v_rank, weights.v))
        kappa = reference.normalise_heads((k * weights.k_k).unflatten(1, (-1, HEAD))).flatten(1)
        k = k * (1 + (a - 1) * weights.k_a)
        k, v, kappa, a = (stream.to(dtype) for stream in (k, v, kappa, a))
        return Streams(r, w, k, v, kappa, a, F.linear(inner.g_rank, weights.g))

    def wkv(self, streams: Streams, rows: Rows, state: Tensor, readout: Readout) -> Tensor:
        computed = torch.promote_types(state.dtype, torch.float32)
        wide = [stream.to(computed) for stream in streams]
        r, w, k, v, kappa, a = (stream.unflatten(1, (-1, HEAD)) for stream in wide[:6])
        y = torch.zeros_like(r)
        starts, slots = rows.starts.tolist(), rows.slots.tolist()
        pieces = [piece for piece in zip(starts, starts[1:], slots, strict=False) if piece[2] >= 0]
        ones = torch.tensor([(start, slot) for start, end, slot in pieces if end - start == 1], device=y.device)
        if len(ones):
            row, slot = ones.T
            r_, w_, k_, v_, kappa_, a_ = (stream[row] for stream in (r, w, k, v, kappa, a))
            y[row], new = reference.wkv7_step(r_, w_, k_, v_, kappa_, a_, state[slot].to(computed))
            state[slot] = kept(new, state.dtype)
        for start, end, slot in (piece for piece in pieces if piece[1] - piece[0] > 1):
            r_, w_, k_, v_, kappa_, a_ = (stream[start:end].unsqueeze(0) for stream in (r, w, k, v, kappa, a))
            form = reference.wkv7_recurrent if end - start < _CHUNKED else reference.wkv7_chunked
            result, new = form(r_, w_, k_, v_, kappa_, a_, state[slot].unsqueeze(0).to(computed))
            y[start:end], state[slot] = result[0], kept(new[0], state.dtype)
        bonus = (r * k * readout.r_k.view(-1, HEAD)).sum(-1, keepdim=True) * v
        y = reference.head_norm(y.flatten(1), *readout.norm, heads=state.shape[1]) + bonus.flatten(1)
        masked = (rows.slots < 0)[rows.piece_of]
        return (y * wide[6]).masked_fill(masked.unsqueeze(1), 0.0).to(streams.r.dtype)

    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        x += _product(y, packed.weight, packed.scales, packed.groups)

    def channel_mix(self, x: Tensor, mixed: Tensor, key: Packed, value: Columns) -> None:
        (active,) = self.products(mixed, key)
        weight, scales, groups = value
        if groups is not None:
            weight = _of_groups(weight, scales, groups, active.dtype)
        elif scales is not None:
            active = (active * scales).to(active.dtype)
        x += active @ weight.to(active.dtype)

    def logits(self, x: Tensor, chosen: Tensor, norm: Norm, head: Packed, dtype: torch.dtype) -> Tensor:
        logits = _product(reference.layer_norm(x[chosen], *norm).to(dtype), head.weight, head.scales, head.groups)
        return logits if dtype is torch.float64 else logits.float()


def kept(state: Tensor, dtype: torch.dtype) -> Tensor:
    """As it is stored: what is too large for `dtype` becomes its largest number, not infinity."""
    most = torch.finfo(dtype).max
    return state.clamp(-most, most).to(dtype)


def _product(x: Tensor, weight: Tensor, scales: Tensor | None, groups: Tensor | None) -> Tensor:
    if groups is not None:
        return F.linear(x, _of_groups(weight, scales, groups, x.dtype))
    if scales is None:
        return F.linear(x, weight)
    return (F.linear(x, weight.to(x.dtype)) * scales).to(x.dtype)


def _of_groups(weight: Tensor, scales: Tensor | None, groups: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Weights in int4, each rounded to `dtype`: without the scales of the rows a sum of them is too large for fp16."""
    assert scales is not None, "int4 has scales"
    assert groups is not None, "and groups"
    return (widened(weight, groups).to(torch.promote_types(dtype, torch.float32)) * scales.unsqueeze(1)).to(dtype)
