"""RWKV-7 as a row of fused operators, on whatever device they compute."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cortexd.rwkv.batch import Piece
from cortexd.rwkv.graphs import CudaRecorder, Graphs, Record
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.streaming import Streamed, moved
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
from cortexd_kernels.pairs import Weight, laid_out
from cortexd_kernels.plain import PlainOperators

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


@dataclass(frozen=True)
class Station:
    """Where layers `first` to `end` are computed; the head is layer L. `weights` are what `prepare` gives in the dtype of these.

    Those from `resident` on are kept on the host and brought to the device for each step, but for the head, which would take its
    whole place there all the same. `states` is what recurrent ones are in.
    """

    weights: Weights
    operators: Operators
    device: torch.device
    first: int
    end: int
    resident: int
    states: torch.dtype = torch.float32

    @classmethod
    def whole(cls, weights: Weights, operators: Operators, device: torch.device, layers: int) -> Self:
        """A model on one device."""
        return cls(weights, operators, device, 0, layers + 1, layers + 1)

    def place(self, layer: int) -> "_Place":
        """Where a layer's tensors are kept."""
        return _Place(self.weights, self.device if layer < self.resident else torch.device("cpu"))


class FusedRwkv7:
    """The whole model from station to station; activations are in the dtype of their matrices."""

    exact_cuts = False  # products of other shapes add in another order

    def __init__(self, stations: Sequence[Station], layers: int, recorder: Callable[[], Record] | None = None) -> None:
        """Steps are recorded by what `recorder` makes; if it is None, as CUDA graphs where they can be."""
        first, last = (_Place(station.weights, station.device) for station in (stations[0], stations[-1]))
        self._first_device = stations[0].device
        self._embedding = first("emb.weight")
        self._ln0 = first.norm("blocks.0.ln0")
        self._stages = [_Stage(station, min(station.end, layers)) for station in stations]
        self._recorder = recorder or (CudaRecorder if _is_recordable(stations) else None)
        self._graphs: WeakKeyDictionary[StatePool, Graphs] = WeakKeyDictionary()  # they hold addresses in the pool
        self._norm, self._head = last.norm("ln_out"), last.single("head.weight")

    @torch.inference_mode()
    def step(self, pieces: Sequence[Piece], pool: StatePool) -> tuple[Tensor, list[int]]:
        """As `Rwkv7.step`; the logits stay on the device of the head."""
        if (logits := self._replayed(pieces, pool)) is not None:
            return logits, list(range(len(pieces)))
        assert not any(piece.marks for piece in pieces), "a state from within a step would have other last bits"
        rows = Rows.of([len(piece.tokens) for piece in pieces], [piece.slot for piece in pieces])
        tokens = torch.tensor([token for piece in pieces for token in piece.tokens])
        wanted = [i for i, piece in enumerate(pieces) if piece.wants_logits]
        return self.forward(tokens, rows, (rows.starts[1:] - 1)[wanted], pool), wanted

    def _replayed(self, pieces: Sequence[Piece], pool: StatePool) -> Tensor | None:
        """Of a step that is recorded, or will be from now on: each piece a token, all on one GPU."""
        if self._recorder is None or any(len(piece.tokens) != 1 or not piece.wants_logits for piece in pieces):
            return None
        if pool not in self._graphs:
            self._graphs[pool] = Graphs(self._first_device, self._recorder())
        compute = partial(self.forward, pool=pool)
        with current(self._first_device):
            return self._graphs[pool].run(
                compute, [piece.tokens[0] for piece in pieces], [piece.slot for piece in pieces]
            )

    def forward(self, tokens: Tensor, rows: Rows, chosen: Tensor, pool: StatePool) -> Tensor:
        """Logits `[len(chosen), V]` in fp32 after these rows; the slots of the pieces hold the states after their last tokens."""
        last = self._stages[-1]
        # Without waiting, and before the layers: afterwards it would wait until they are computed.
        tokens = tokens.to(self._first_device, non_blocking=True)
        chosen = chosen.to(last.device, non_blocking=True)
        x = reference.layer_norm(self._embedding[tokens].float(), *self._ln0)
        v_first: Tensor | None = None
        for stage in self._stages:
            with current(stage.device):
                x, v_first = stage(x, rows, v_first, pool)
        with current(last.device):
            return last.operators.logits(x, chosen, self._norm, self._head, last.dtype)


def _is_recordable(stations: Sequence[Station]) -> bool:
    """All on one GPU, by operators that do not ask it for numbers on their way, as the plain ones do."""
    (only, *others) = stations
    resident = not others and only.resident == only.end and only.device.type == "cuda"
    return resident and not isinstance(only.operators, PlainOperators)


class _Stage:
    """The layers of one station."""

    def __init__(self, station: Station, end: int) -> None:
        self.operators = station.operators
        self.dtype = station.weights["blocks.0.att.w2"].dtype  # integers leave the low-rank matrices as they were
        self.device = station.device
        self._first = station.first
        resident = min(station.resident, end)
        self._resident = [_layer(station.place(i), i) for i in range(station.first, resident)]
        self._streamed = Streamed((_layer(station.place(i), i) for i in range(resident, end)), station.device)

    def __call__(self, x: Tensor, rows: Rows, v_first: Tensor | None, pool: StatePool) -> tuple[Tensor, Tensor | None]:
        ops, dtype = self.operators, self.dtype
        x, rows = x.to(self.device), moved(rows, self.device)
        v_first = None if v_first is None else v_first.to(self.device, dtype)
        for number, layer in enumerate(chain(self._resident, self._streamed), self._first):
            att_shift, ffn_shift, wkv = pool.layer(number)
            mixed = ops.shift_mix(x, rows, att_shift, layer.mix, dtype)
            inner = Inner(*(result for packed in layer.inner for result in ops.products(mixed, packed)))
            streams = ops.head_streams(inner, layer.outer, v_first)
            v_first = inner.v if v_first is None else v_first
            ops.product_add(x, ops.wkv(streams, rows, wkv, layer.readout), layer.output)
            mixed = ops.shift_mix(x, rows, ffn_shift, layer.ffn_mix, dtype)
            ops.channel_mix(x, mixed, layer.key, layer.value)
        return x, v_first


def current(device: torch.device) -> AbstractContextManager[object]:
    """Where kernels are started until it ends: Triton asks PyTorch."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


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
        return Packed.single(*self.matrix(name), activation=activation)

    def matrix(self, name: str) -> Weight:
        return laid_out(self(name), self.maybe(f"{name}.scales"))

    def packed(self, parts: Sequence[tuple[str, int, Activation]]) -> Packed:
        """Matrices one below the other, each with the stream that it multiplies and what follows."""
        names = [name for name, _, _ in parts]
        scales = [self._weights[f"{name}.scales"] for name in names if f"{name}.scales" in self._weights]
        weight, row_scales, groups = laid_out(
            torch.cat([self._weights[name] for name in names]).to(self._device),
            torch.cat(scales).to(self._device) if scales else None,
        )
        rows = (Part(len(self._weights[name]), stream, activation) for name, stream, activation in parts)
        return Packed(weight, tuple(rows), row_scales, groups)

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
        value=Columns(*place.matrix(f"blocks.{layer}.{COLUMNS}")),
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
