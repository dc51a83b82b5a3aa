"""RWKV-7 (x070), after the formulas of the paper and of the official implementation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape
from cortexd.rwkv.batch import Batch, Piece
from cortexd.rwkv.layers import Linear, LowRank
from cortexd.rwkv.state import StatePool
from cortexd_kernels import reference as ops
from cortexd_kernels.native.layout import COLUMNS

Weights = Mapping[str, Tensor]  # by the names that `prepare` gives them
CHUNK = 32  # tokens: the fastest form of the chunked recurrence on the CPU


class TimeMix:
    """The recurrent half of a layer: x `[T, C]` → `[T, C]`, reading and writing its part of the state pool."""

    def __init__(self, weights: Weights, shape: ModelShape, layer: int) -> None:
        block = f"blocks.{layer}."

        def vector(name: str) -> Tensor:
            return weights[f"{block}att.{name}"]

        def linear(name: str) -> Linear:
            return Linear(weights[f"{block}att.{name}.weight"])

        def low_rank(name: str) -> LowRank:
            return LowRank(weights[f"{block}att.{name}1"], weights[f"{block}att.{name}2"])

        self.layer, self.heads, self.size = layer, shape.heads, shape.head_size
        self.ln_weight, self.ln_bias = weights[f"{block}ln1.weight"], weights[f"{block}ln1.bias"]
        self.mix = vector("mix")
        self.receptance, self.key, self.value = linear("receptance"), linear("key"), linear("value")
        self.output = linear("output")
        self.w0, self.a0 = vector("w0"), vector("a0")
        self.w, self.a, self.g = low_rank("w"), low_rank("a"), low_rank("g")
        self.v0 = vector("v0") if layer else None  # layer 0 is where the value residual starts
        self.v = low_rank("v") if layer else None
        self.k_k, self.k_a, self.r_k = vector("k_k"), vector("k_a"), vector("r_k")
        self.norm_weight, self.norm_bias = vector("ln_x.weight"), vector("ln_x.bias")

    def __call__(self, x: Tensor, batch: Batch, pool: StatePool, v_first: Tensor | None) -> tuple[Tensor, Tensor]:
        h = ops.layer_norm(x, self.ln_weight, self.ln_bias)
        difference = shift(h, batch, pool.att_shift[self.layer]) - h
        for_r, for_w, for_k, for_v, for_a, for_g = h + difference * self.mix

        r, k, v = self.receptance(for_r), self.key(for_k), self.value(for_v)
        w = ops.decay(self.w0 + self.w.tanh(for_w))
        a = torch.sigmoid(self.a0 + self.a.plain(for_a))
        g = self.g.sigmoid(for_g)
        if self.v is None or self.v0 is None or v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + self.v.plain(for_v))
        kappa = ops.normalise_heads(self._heads(k * self.k_k))
        k = k * (1 + (a - 1) * self.k_a)

        r_, w_, k_, v_, a_ = (self._heads(stream) for stream in (r, w, k, v, a))
        y = recurrence((r_, w_, k_, v_, kappa, a_), batch, pool.wkv[self.layer])
        y = ops.head_norm(y.reshape(h.shape), self.norm_weight, self.norm_bias, self.heads)
        y = y + ((r_ * k_ * self.r_k).sum(-1, keepdim=True) * v_).reshape(h.shape)
        return self.output(y * g), v_first

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.heads, self.size)


class ChannelMix:
    """The feed-forward half of a layer: x `[T, C]` → `[T, C]`."""

    def __init__(self, weights: Weights, layer: int) -> None:
        block = f"blocks.{layer}."
        self.layer = layer
        self.ln_weight, self.ln_bias = weights[f"{block}ln2.weight"], weights[f"{block}ln2.bias"]
        self.mix = weights[f"{block}ffn.x_k"]
        self.key, self.value = Linear(weights[f"{block}ffn.key.weight"]), Linear(weights[f"{block}{COLUMNS}"].t())

    def __call__(self, x: Tensor, batch: Batch, pool: StatePool) -> Tensor:
        h = ops.layer_norm(x, self.ln_weight, self.ln_bias)
        mixed = h + (shift(h, batch, pool.ffn_shift[self.layer]) - h) * self.mix
        return self.value(ops.relu_squared(self.key(mixed)))


class Rwkv7:
    """The whole model, of the tensors that `prepare` gives."""

    exact_cuts = False  # a prompt cut elsewhere has other last bits

    def __init__(self, weights: Weights, shape: ModelShape) -> None:
        self.embedding = weights["emb.weight"]
        self.ln0_weight, self.ln0_bias = weights["blocks.0.ln0.weight"], weights["blocks.0.ln0.bias"]
        self.layers = [(TimeMix(weights, shape, i), ChannelMix(weights, i)) for i in range(shape.layers)]
        self.out_weight, self.out_bias = weights["ln_out.weight"], weights["ln_out.bias"]
        self.head = Linear(weights["head.weight"])

    @torch.inference_mode()
    def step(self, pieces: Sequence[Piece], pool: StatePool) -> tuple[Tensor, list[int]]:
        """Logits `[rows, V]` in fp32, and for each row the index of the piece it follows."""
        assert not any(piece.marks for piece in pieces), "a state from within a step would have other last bits"
        batch = Batch(pieces)
        return self.forward(batch, pool), batch.wanted_pieces

    def forward(self, batch: Batch, pool: StatePool) -> Tensor:
        """Logits `[len(batch.wanted), V]` in fp32; the slots of the batch hold the states after its last tokens."""
        x = ops.layer_norm(self.embedding[batch.tokens].float(), self.ln0_weight, self.ln0_bias)
        v_first: Tensor | None = None
        for time_mix, channel_mix in self.layers:
            y, v_first = time_mix(x, batch, pool, v_first)
            x = x + y
            x = x + channel_mix(x, batch, pool)
        return self.head(ops.layer_norm(x[batch.wanted], self.out_weight, self.out_bias))


def shift(h: Tensor, batch: Batch, state: Tensor) -> Tensor:
    """Each row's predecessor in its own sequence: h `[T, C]`, state `[slots, C]`, which then holds each piece's last row."""
    previous = torch.empty_like(h)
    previous[1:] = h[:-1]
    previous[batch.first] = state[batch.slots]
    state[batch.slots] = h[batch.last]
    return previous


def recurrence(streams: tuple[Tensor, ...], batch: Batch, state: Tensor) -> Tensor:
    """The WKV recurrence over every piece: streams `[T, H, N]`, state `[slots, H, N, N]`, updated in place → y `[T, H, N]`."""
    ones = batch.ones
    parts: list[Tensor] = []
    if ones:
        slots = batch.slots[:ones]
        r, w, k, v, kappa, a = (stream[:ones] for stream in streams)
        y, new = ops.wkv7_step(r, w, k, v, kappa, a, state[slots])
        state[slots] = new
        parts.append(y)
    row = ones
    for i, length in enumerate(batch.lengths[ones:], ones):
        slot = int(batch.slots[i])
        r, w, k, v, kappa, a = (stream[row : row + length].unsqueeze(0) for stream in streams)
        y, new = ops.wkv7_chunked(r, w, k, v, kappa, a, state[slot].unsqueeze(0), CHUNK)
        state[slot] = new[0]
        parts.append(y[0])
        row += length
    return torch.cat(parts)
