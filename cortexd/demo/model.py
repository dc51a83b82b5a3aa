"""RWKV-7 for training: the tensors under their official names, one forward for whole texts and for single tokens."""

import math

import torch
from torch import Tensor, nn

from cortexd_kernels import reference

VOCABULARY = 257
HEAD = 64
LAYERS = 4
WIDTH = 192
DECAY_RANK, RATE_RANK, VALUE_RANK, GATE_RANK = 32, 32, 16, 64
CHUNK = 32

LayerState = tuple[Tensor, Tensor, Tensor]
"""What a layer remembers: last input of attention `[B, C]`, state `[B, H, N, N]`, last input of the feed-forward `[B, C]`."""


def shifted(x: Tensor, previous: Tensor) -> Tensor:
    """x `[B, T, C]` one token later: what each token's predecessor was, minus the token itself."""
    return torch.cat((previous[:, None], x[:, :-1]), dim=1) - x


def row(values: Tensor) -> nn.Parameter:
    """A parameter for every channel, in the official shape `[1, 1, C]`."""
    return nn.Parameter(values.reshape(1, 1, -1).clone())


def low_rank(width: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """The two factors of a low-rank map, which starts as zero: `[width, rank]` and `[rank, width]`."""
    second = nn.init.orthogonal_(torch.empty(rank, width), gain=0.1)
    return nn.Parameter(torch.zeros(width, rank)), nn.Parameter(second)


def linear(inputs: int, outputs: int, bound: float) -> nn.Linear:
    """A bias-free linear map, uniform in ±bound/√inputs; a bound of 0 starts it at zero."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.uniform_(layer.weight, -bound / math.sqrt(inputs), bound / math.sqrt(inputs))
    return layer


class Attention(nn.Module):
    """Time mixing of one layer, initialised as RWKV-LM does. The first layer has no v0, v1, v2."""

    def __init__(self, layer: int, layers: int, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        depth, left = layer / max(layers - 1, 1), 1 - layer / layers
        channel = torch.arange(width)
        ramp = channel / (width - 1) - 0.5
        zigzag = (channel % HEAD - (HEAD - 1) / 2) / ((HEAD - 1) / 2)
        zigzag = zigzag * zigzag.abs()

        def mix(power: float) -> nn.Parameter:
            return row(1 - (channel / width) ** (power * left))

        self.x_r, self.x_w, self.x_k = mix(0.2), mix(0.9), mix(0.7)
        self.x_v, self.x_a, self.x_g = mix(0.7), mix(0.9), mix(0.2)
        self.w0 = row(-5.5 + 6 * (channel / (width - 1)) ** (1 + depth**0.3) + zigzag * 2.5)
        self.w1, self.w2 = low_rank(width, DECAY_RANK)
        self.a0 = row(-0.19 + zigzag * 0.3 + ramp * 0.4)
        self.a1, self.a2 = low_rank(width, RATE_RANK)
        if layer > 0:
            self.v0 = row(0.73 - ramp * 0.4)
            self.v1, self.v2 = low_rank(width, VALUE_RANK)
        self.g1, self.g2 = low_rank(width, GATE_RANK)
        self.k_k = row(0.71 - ramp * 0.1)
        self.k_a = row(torch.full((width,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.heads, HEAD), -0.04))
        self.receptance = linear(width, width, 0.5)
        self.key = linear(width, width, 0.05)
        self.value = linear(width, width, 0.5)
        self.output = linear(width, width, 0.0)
        self.ln_x = nn.LayerNorm(width, eps=reference.HEAD_NORM_EPS)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / layers) ** 0.7)

    def forward(
        self, x: Tensor, previous: Tensor, state: Tensor, v_first: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x `[B, T, C]` → its change, the next state, and the first layer's values."""
        d = shifted(x, previous)
        r = self.receptance(x + d * self.x_r)
        w = reference.decay(self.w0 + torch.tanh((x + d * self.x_w) @ self.w1) @ self.w2)
        k = self.key(x + d * self.x_k)
        s_v = x + d * self.x_v
        v = own = self.value(s_v)
        if v_first is not None:
            v = torch.lerp(own, v_first, torch.sigmoid(self.v0 + (s_v @ self.v1) @ self.v2))
        a = torch.sigmoid(self.a0 + ((x + d * self.x_a) @ self.a1) @ self.a2)
        g = torch.sigmoid((x + d * self.x_g) @ self.g1) @ self.g2

        shape = (*x.shape[:2], self.heads, HEAD)
        kappa = reference.normalise_heads((k * self.k_k).reshape(shape))
        r, w, k, v_, a_ = (t.reshape(shape) for t in (r, w, k * (1 + (a - 1) * self.k_a), v, a))
        if x.shape[1] == 1:
            y, state = reference.wkv7_recurrent(r, w, k, v_, kappa, a_, state)
        else:
            y, state = reference.wkv7_chunked(r, w, k, v_, kappa, a_, state, chunk=CHUNK)
        normed = reference.head_norm(y.reshape(-1, x.shape[-1]), self.ln_x.weight, self.ln_x.bias, self.heads)
        bonus = (r * k * self.r_k).sum(-1, keepdim=True) * v_
        return (
            self.output((normed.reshape(x.shape) + bonus.reshape(x.shape)) * g),
            state,
            own if v_first is None else v_first,
        )


class FeedForward(nn.Module):
    """Channel mixing of one layer."""

    def __init__(self, layer: int, layers: int, width: int) -> None:
        super().__init__()
        self.x_k = row(1 - (torch.arange(width) / width) ** ((1 - layer / layers) ** 4))
        self.key = linear(width, 4 * width, 0.5)
        self.value = linear(4 * width, width, 0.0)

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        return self.value(reference.relu_squared(self.key(x + shifted(x, previous) * self.x_k)))


class Block(nn.Module):
    """One layer; the first also normalises the embedding."""

    def __init__(self, layer: int, layers: int, width: int) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(width)
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.att = Attention(layer, layers, width)
        self.ffn = FeedForward(layer, layers, width)

    def forward(self, x: Tensor, state: LayerState, v_first: Tensor | None) -> tuple[Tensor, LayerState, Tensor]:
        h = self.ln1(x)
        change, wkv, first = self.att(h, state[0], state[1], v_first)
        f = self.ln2(x + change)
        return x + change + self.ffn(f, state[2]), (h[:, -1], wkv, f[:, -1]), first


class Model(nn.Module):
    """The whole network; its state dict has the official names and shapes."""

    def __init__(self, layers: int = LAYERS, width: int = WIDTH) -> None:
        super().__init__()
        self.emb = nn.Embedding(VOCABULARY, width)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        self._layers = [Block(i, layers, width) for i in range(layers)]
        self.blocks = nn.ModuleList(self._layers)
        self.ln_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        nn.init.orthogonal_(self.head.weight, gain=0.5)

    def empty_state(self, batch: int) -> list[LayerState]:
        """The state before the first token."""
        width = self.emb.embedding_dim
        last = self.emb.weight.new_zeros(batch, width)
        wkv = self.emb.weight.new_zeros(batch, width // HEAD, HEAD, HEAD)
        return [(last, wkv, last) for _ in self._layers]

    def read(self, tokens: Tensor, states: list[LayerState] | None = None) -> tuple[Tensor, list[LayerState]]:
        """tokens `[B, T]` → what the head sees `[B, T, C]` and the states after the last token."""
        states = self.empty_state(len(tokens)) if states is None else states
        x = self._layers[0].ln0(self.emb(tokens))
        v_first: Tensor | None = None
        after: list[LayerState] = []
        for block, state in zip(self._layers, states, strict=True):
            x, state, v_first = block(x, state, v_first)
            after.append(state)
        return self.ln_out(x), after

    def forward(self, tokens: Tensor, states: list[LayerState] | None = None) -> tuple[Tensor, list[LayerState]]:
        """tokens `[B, T]` → logits `[B, T, V]` and the states after the last token."""
        x, states = self.read(tokens, states)
        return self.head(x), states
