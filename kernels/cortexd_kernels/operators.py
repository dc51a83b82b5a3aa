"""The fused operators of one step of RWKV-7: what each takes and gives, for whoever implements them and for whoever calls them.

A step computes T rows (tokens) of S pieces (some next tokens of a sequence each), laid end to end: single tokens of sequences that
generate and parts of prompts, in any mixture. C width, H heads of N = 64 channels, C = H·N; F width of the feed-forward half; V
vocabulary. The residual x `[T, C]`, everything that is added to weights (layer norms, interpolations, biases) and the recurrent
states are fp32; A, the dtype of the activations, is that of the weights: fp16, bf16 or fp32 (with weights in int8 or int4:
that of the mixed streams). A layer is

    inner = Inner(*ops.products(ops.shift_mix(x, rows, att_shift, mix, A), packed))
    streams = ops.head_streams(inner, outer, v_first)
    ops.product_add(x, ops.wkv(streams, rows, state, readout), output)
    ops.channel_mix(x, ops.shift_mix(x, rows, ffn_shift, ffn_mix, A), key, value)

and after the last one `ops.logits(x, chosen, norm, head, A)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from cortexd_kernels.draws import Sample

HEAD = 64  # channels of a head, in every published RWKV-7
UNIT = 32  # weights of one product end at a multiple of so many rows, where those of another follow


@dataclass(frozen=True)
class Rows:
    """How the T rows of a step lie: those of piece i are `starts[i]` to `starts[i + 1]`, its states are in slot `slots[i]`.

    starts int32 `[S + 1]`, from 0 to T, slots int32 `[S]`, piece_of int32 `[T]`. No piece is empty, no slot is named twice but -1:
    such a piece is masked. It is computed as if its state were zero, `wkv` gives zeros for it, and no state is written.
    """

    starts: Tensor
    slots: Tensor
    piece_of: Tensor
    max_length: int

    @classmethod
    def of(cls, lengths: Sequence[int], slots: Sequence[int], device: torch.device | str = "cpu") -> Self:
        assert len(lengths) == len(slots), "each piece has a slot"
        assert min(lengths) > 0, "no piece is empty"
        sizes = torch.tensor(lengths)
        starts = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        piece_of = torch.arange(len(lengths)).repeat_interleave(sizes)
        host = (starts, torch.tensor(slots), piece_of)
        return cls(*(tensor.to(device, torch.int32) for tensor in host), max_length=max(lengths))

    @property
    def pieces(self) -> int:
        return len(self.slots)


class Norm(NamedTuple):
    """A layer norm: weight and bias `[C]`."""

    weight: Tensor
    bias: Tensor


class Mix(NamedTuple):
    """A layer norm and the M interpolations between a row and its predecessor that follow it: mix `[M, C]`."""

    norm: Norm
    mix: Tensor


class Activation(IntEnum):
    NONE = 0
    TANH = 1
    SIGMOID = 2
    RELU_SQUARED = 3


class Part(NamedTuple):
    """`rows` weights of a packed matrix: which of the mixed streams they multiply, and what is done to the result."""

    rows: int
    stream: int = 0
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Packed:
    """The weights of several products, one below the other: weight `[R, C]` in A, or int8 with scales fp32 `[R]`, or int4 in pairs
    `[R, C/2]` with these and with scales of groups `[R, ⌈C/128⌉]` (`pairs.py`).

    Every part but the last has a multiple of 32 rows: fill up with zeros.
    """

    weight: Tensor
    parts: tuple[Part, ...]
    scales: Tensor | None = None
    groups: Tensor | None = None
    _tiles: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert sum(part.rows for part in self.parts) == len(self.weight), "the parts are the matrix"
        assert all(part.rows % UNIT == 0 for part in self.parts[:-1]), f"a part ends at a multiple of {UNIT} rows"
        integers = self.weight.dtype in (torch.int8, torch.uint8)
        assert (self.scales is not None) == integers, "int8 and int4, and nothing else, have scales"
        assert (self.groups is not None) == (self.weight.dtype is torch.uint8), "int4, and only int4, has groups"

    @classmethod
    def single(
        cls,
        weight: Tensor,
        scales: Tensor | None = None,
        groups: Tensor | None = None,
        activation: Activation = Activation.NONE,
    ) -> Self:
        """One product alone: weight `[R, C]`."""
        return cls(weight, (Part(len(weight), 0, activation),), scales, groups)

    def split(self, results: Tensor) -> tuple[Tensor, ...]:
        """From `[T, R]` a view for each part."""
        return results.split([part.rows for part in self.parts], dim=1)

    def tiles(self, block: int) -> Tensor:
        """int32 `[n, 4]`, where the weight is: first row, end, stream, activation of tiles of at most `block` rows of a part."""
        device = self.weight.device  # of this one; a copy elsewhere shares the tables
        if (block, device) not in self._tiles:
            table: list[tuple[int, int, int, int]] = []
            end = 0
            for part in self.parts:
                start, end = end, end + part.rows
                for first in range(start, end, block):
                    table.append((first, min(first + block, end), part.stream, int(part.activation)))
            self._tiles[block, device] = torch.tensor(table, dtype=torch.int32, device=device)
        return self._tiles[block, device]


class Columns(NamedTuple):
    """The matrix of ffn.value, turned: weight `[F, C]` in A, or int8 with scales fp32 `[F]`, or int4 as in `Packed`."""

    weight: Tensor
    scales: Tensor | None = None
    groups: Tensor | None = None

    @property
    def width(self) -> int:
        """C."""
        return self.weight.shape[1] * (1 if self.groups is None else 2)


class Inner(NamedTuple):
    """The results of the first products of a layer, in this order; v_rank is absent in layer 0, where `v` is the first value.

    r, k, v `[T, C]`; w_rank (after tanh), a_rank, g_rank (after σ), v_rank `[T, rank]`. Each row is contiguous.
    """

    r: Tensor
    k: Tensor
    v: Tensor
    w_rank: Tensor
    a_rank: Tensor
    g_rank: Tensor
    v_rank: Tensor | None = None


class LowRankOut(NamedTuple):
    """The second matrices of the low-rank products `[C, rank]` in A, with what follows them: w0, a0, v0, k_k, k_a fp32 `[C]`."""

    w: Tensor
    a: Tensor
    g: Tensor
    w0: Tensor
    a0: Tensor
    k_k: Tensor
    k_a: Tensor
    v: Tensor | None = None
    v0: Tensor | None = None


class Streams(NamedTuple):
    """What the recurrence takes, `[T, C]` each: w fp32, the others in A; g is the gate of what it gives."""

    r: Tensor
    w: Tensor
    k: Tensor
    v: Tensor
    kappa: Tensor
    a: Tensor
    g: Tensor


class Readout(NamedTuple):
    """What makes the result of the recurrence that of the layer: r_k `[C]`, and a layer norm of each head."""

    r_k: Tensor
    norm: Norm


class Operators(Protocol):
    """One row of a result depends on nothing but its own piece. Only what is said to change in place is written."""

    def shift_mix(self, x: Tensor, rows: Rows, state: Tensor, weights: Mix, dtype: torch.dtype) -> Tensor:
        """h = LN(x); h + (h' − h)⊙mix, where h' is the row before in the same piece: `[M, T, C]` in `dtype`.

        Before the first row of a piece comes `state[slot]`, of `[slots, C]`, which becomes the h of its last.
        """
        ...

    def products(self, streams: Tensor, packed: Packed) -> tuple[Tensor, ...]:
        """activation(streams[part.stream] · Wᵀ) for each part: streams `[M, T, C]` → `[T, part.rows]` each, views of one tensor."""
        ...

    def head_streams(self, inner: Inner, weights: LowRankOut, v_first: Tensor | None) -> Streams:
        """
            w = exp(−e^{−1/2} σ(w0 + w_rank W2ᵀ))       a = σ(a0 + a_rank A2ᵀ)       g = g_rank G2ᵀ
            v ← v + (v_first − v) ⊙ σ(v0 + v_rank V2ᵀ)       where there is a v_rank
            κ = k⊙k_k / max(‖k⊙k_k‖, 1e-12) in each head     k ← k ⊙ (1 + (a − 1)⊙k_a)

        v_first is the v of layer 0, `[T, C]`.
        """
        ...

    def wkv(self, streams: Streams, rows: Rows, state: Tensor, readout: Readout) -> Tensor:
        """For each token of a piece in turn, in each head, with S of `state` `[slots, H, N, N]` (value rows, key columns):

            S ← S·diag(w) − (S κ)(κ⊙a)ᵀ + v kᵀ       y = S r
            (GN(y) + (Σ r⊙k⊙r_k) v) ⊙ g

        → `[T, C]` in A. The states of pieces that are not masked change in place; in fp16 they are rounded after the last token
        of a piece, and what is too large becomes the largest number there is.
        """
        ...

    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        """x += y Wᵀ: y `[T, C]`, x `[T, R]`, in place."""
        ...

    def channel_mix(self, x: Tensor, mixed: Tensor, key: Packed, value: Columns) -> None:
        """x += max(mixed Kᵀ, 0)² V in place: mixed `[1, T, C]`, key `[F, C]` with RELU_SQUARED for activation, value `[F, C]`."""
        ...

    def logits(self, x: Tensor, chosen: Tensor, norm: Norm, head: Packed, dtype: torch.dtype) -> Tensor:
        """LN(x[chosen]), rounded to `dtype`, times Wᵀ: chosen int32 `[B]`, head `[V, C]` → fp32 `[B, V]`. B may be 0."""
        ...

    @property
    def sample(self) -> Sample | None:
        """Draws where the logits are, so that ids alone leave the device; None where the host is to draw."""
        ...
