"""RWKV-7 as a row of fused operators, on whatever device they compute."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.v7 import Weights
from cortexd_kernels import reference
from cortexd_kernels.native.layout import COLUMNS
from cortexd_kernels.operators import (
    Activation,
    Columns,
    Inner,
    LowRankOut,
    Mix,
    Norm,
    Operators,
    Packed,
    Part,
    Readout,
    Rows,
)

# Which of the interpolated streams `att.mix` holds where.
_R, _W, _K, _V, _A, _G = range(6)
_LARGE = (("receptance", _R), ("key", _K), ("value", _V))
_LOW_RANK = (
    ("w", _W, Activation.TANH),
    ("a", _A, Activation.NONE),
    ("g", _G, Activation.SIGMOID),
    ("v", _V, Activation.NONE),
)


@dataclass(frozen=True)
class _Layer:
    mix: Mix
    inner: tuple[Packed, ...]
    outer: LowRankOut
    readout: Readout
    output: Packed
    ffn_mix: Mix
    key: Packed
    value: Columns


class FusedRwkv7:
    """The whole model, of the tensors that `prepare` gives, on `device`; activations are in the dtype of the matrices."""

    exact_cuts = False  # products of other shapes add in another order

    def __init__(self, weights: Weights, shape: ModelShape, operators: Operators, device: torch.device) -> None:
        self._operators = operators
        self._device = device
        place = _Place(weights, device)
        self._embedding = place("emb.weight")
        self._ln0 = place.norm("blocks.0.ln0")
        self._layers = [_layer(place, i) for i in range(shape.layers)]
        self._norm = place.norm("ln_out")
        self._head = place.single("head.weight")
        self._dtype = self._layers[0].outer.w.dtype  # that of the large matrices, unless they are int8

    @torch.inference_mode()
    def step(self, pieces: Sequence[Piece], pool: StatePool) -> tuple[Tensor, list[int]]:
        """As `Rwkv7.step`; the logits stay on the device."""
        assert not any(piece.marks for piece in pieces), "a state from within a step would have other last bits"
        rows = Rows.of([len(piece.tokens) for piece in pieces], [piece.slot for piece in pieces], self._device)
        tokens = torch.tensor([token for piece in pieces for token in piece.tokens], device=self._device)
        wanted = [i for i, piece in enumerate(pieces) if piece.wants_logits]
        chosen = (rows.starts[1:] - 1)[wanted]
        return self.forward(tokens, rows, chosen, pool), wanted

    def forward(self, tokens: Tensor, rows: Rows, chosen: Tensor, pool: StatePool) -> Tensor:
        """Logits `[len(chosen), V]` in fp32 after these rows; the slots of the pieces hold the states after their last tokens."""
        ops, dtype = self._operators, self._dtype
        x = reference.layer_norm(self._embedding[tokens].float(), *self._ln0)
        v_first: Tensor | None = None
        for i, layer in enumerate(self._layers):
            mixed = ops.shift_mix(x, rows, pool.att_shift[i], layer.mix, dtype)
            inner = Inner(*(result for packed in layer.inner for result in ops.products(mixed, packed)))
            streams = ops.head_streams(inner, layer.outer, v_first)
            v_first = inner.v if v_first is None else v_first
            ops.product_add(x, ops.wkv(streams, rows, pool.wkv[i], layer.readout), layer.output)
            mixed = ops.shift_mix(x, rows, pool.ffn_shift[i], layer.ffn_mix, dtype)
            ops.channel_mix(x, mixed, layer.key, layer.value)
        return ops.logits(x, chosen, self._norm, self._head, dtype)


class _Place:
    """Brings tensors to a device."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self._weights = weights
        self._device = device

    def __call__(self, name: str) -> Tensor:
        return self._weights[name].to(self._device)

    def maybe(self, name: str) -> Tensor | None:
        return self(name) if name in self._weights else None

    def norm(self, name: str) -> Norm:
        return Norm(self(f"{name}.weight"), self(f"{name}.bias"))

    def single(self, name: str, activation: Activation = Activation.NONE) -> Packed:
        return Packed.single(self(name), self.maybe(f"{name}.scales"), activation)

    def packed(self, parts: Sequence[tuple[str, int, Activation]]) -> Packed:
        """Matrices one below the other, each with the stream that it multiplies and what follows."""
        names = [name for name, _, _ in parts]
        scales = [self._weights[f"{name}.scales"] for name in names if f"{name}.scales" in self._weights]
        return Packed(
            torch.cat([self._weights[name] for name in names]).to(self._device),
            tuple(Part(len(self._weights[name]), stream, activation) for name, stream, activation in parts),
            torch.cat(scales).to(self._device) if scales else None,
        )

    def dtype(self, name: str) -> torch.dtype:
        return self._weights[name].dtype


def _layer(place: _Place, layer: int) -> _Layer:
    att, ffn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
    return _Layer(
        mix=Mix(place.norm(f"blocks.{layer}.ln1"), place(f"{att}mix").flatten(1)),
        inner=_inner(place, att, layer),
        outer=LowRankOut(
            *(place(f"{att}{name}") for name in ("w2", "a2", "g2", "w0", "a0", "k_k", "k_a")),
            v=place(f"{att}v2") if layer else None,
            v0=place(f"{att}v0") if layer else None,
        ),
        readout=Readout(place(f"{att}r_k").flatten(), place.norm(f"{att}ln_x")),
        output=place.single(f"{att}output.weight"),
        ffn_mix=Mix(place.norm(f"blocks.{layer}.ln2"), place(f"{ffn}x_k").reshape(1, -1)),
        key=place.single(f"{ffn}key.weight", Activation.RELU_SQUARED),
        value=Columns(place(f"blocks.{layer}.{COLUMNS}"), place.maybe(f"blocks.{layer}.{COLUMNS}.scales")),
    )


def _inner(place: _Place, att: str, layer: int) -> tuple[Packed, ...]:
    """What multiplies the interpolated streams, as one matrix where it is of one dtype."""
    large = [(f"{att}{name}.weight", stream, Activation.NONE) for name, stream in _LARGE]
    # Layer 0 is where the value residual starts.
    small = [
        (f"{att}{name}1", stream, activation) for name, stream, activation in (_LOW_RANK if layer else _LOW_RANK[:-1])
    ]
    if place.dtype(large[0][0]) is place.dtype(small[0][0]):
        return (place.packed([*large, *small]),)
    return place.packed(large), place.packed(small)
