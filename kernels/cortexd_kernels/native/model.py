"""A whole RWKV-7 as one native call for each step."""

import ctypes
import itertools
import weakref
from collections.abc import Mapping, Sequence
from ctypes import c_void_p

import torch
from torch import Tensor

from cortexd_kernels.native import structures as c
from cortexd_kernels.native.threads import Threads

HEAD_SIZE = 64
_LOW_RANK = ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")


class NativeModel:
    """Computes with `weights` where they lie, in fp32 whatever their format.

    Names are those of the checkpoint, with these matrices `[rows, columns]`, all contiguous on the CPU, in any format of `layout`:
    float32, bfloat16, float16, or int8 or int4 (as uint8) beside a float32 tensor `<name>.scales` `[rows]`:

    - `emb.weight`, `head.weight` `[V, C]`; `att.{receptance,key,value,output}.weight` `[C, C]`; `ffn.key.weight` `[F, C]`
    - `ffn.value.columns` `[F, C]`: `ffn.value.weight` transposed, of which only rows with an activation other than zero are read
    - low-rank matrices transposed: `att.w1` `[rank, C]`, `att.w2` `[C, rank]`; likewise a, v (not in layer 0) and g

    and float32 vectors `[C]`, `att.mix` `[6, C]` holding x_r, x_w, x_k, x_v, x_a and x_g. Every number of a result depends on its
    own sequence alone, to the last bit: not on the batch, on how a sequence is cut into pieces, or on the threads.
    """

    def __init__(self, weights: Mapping[str, Tensor], threads: Threads) -> None:
        library = threads.library
        library.cortexd_engine_new.restype = c_void_p
        library.cortexd_engine_free.restype = None
        self.threads = threads
        self._tensors = weights  # kept alive: the library reads them where they lie
        self.vocabulary, self.width = weights["emb.weight"].shape
        self.layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self.ffn_width = weights["blocks.0.ffn.key.weight"].shape[0]
        self.heads = self.width // HEAD_SIZE
        described = self._describe()
        self._engine = c_void_p(library.cortexd_engine_new(ctypes.byref(described)))
        self._end = weakref.finalize(self, library.cortexd_engine_free, self._engine)

    def step(
        self,
        pieces: Sequence[tuple[int, Sequence[int]]],
        states: tuple[Tensor, Tensor, Tensor],
        wanted: Sequence[int] | None = None,
        marks: Sequence[tuple[int, int, tuple[Tensor, Tensor, Tensor]]] = (),
    ) -> Tensor:
        """Feed each piece, (slot, tokens), to the sequence in its slot; logits `[len(wanted), V]` after the last token of each
        of the `wanted` pieces, all if it is None.

        `states` are att_shift and ffn_shift `[L, slots, C]` and wkv `[L, slots, H, 64, 64]`, contiguous float32, updated in place.
        Each of the `marks` is a piece, a number of its tokens, and where its state after so many of them goes to:
        `[L, C]`, `[L, C]` and `[L, H, 64, 64]`. Slots and tokens must exist: nothing is checked beyond that. One step at a time.
        """
        slots, lengths = [slot for slot, _ in pieces], [len(tokens) for _, tokens in pieces]
        tokens = [token for _, piece in pieces for token in piece]
        self._check(slots, lengths, tokens, states)
        chosen = range(len(pieces)) if wanted is None else wanted
        ends = list(itertools.accumulate(lengths))
        logits = torch.empty(len(chosen), self.vocabulary)
        marked = [c.Mark(ends[i] - lengths[i] + after - 1, *map(c.floats, state)) for i, after, state in marks]
        assert all(0 < after <= lengths[i] for i, after, _ in marks), "no such token"
        step = c.Step(
            c.pieces(slots, lengths),
            c.ints(tokens),
            len(chosen),
            c.ints([ends[piece] - 1 for piece in chosen]),
            c.floats(logits),
            len(marked),
            (c.Mark * len(marked))(*marked),
        )
        held = c.States(*(c.floats(state) for state in states), states[0].shape[1])
        self.threads.call("cortexd_step", ctypes.byref(held), ctypes.byref(step), of=self._engine)
        return logits

    def _check(
        self, slots: list[int], lengths: list[int], tokens: list[int], states: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        count = states[0].shape[1]
        shift = (self.layers, count, self.width)
        shapes = (shift, shift, (self.layers, count, self.heads, HEAD_SIZE, HEAD_SIZE))
        for state, shape in zip(states, shapes, strict=True):
            assert state.shape == shape, "no state of this model"
        assert min(lengths) > 0, "a piece without tokens"
        assert all(0 <= slot < count for slot in slots), "no such slot"
        assert len(set(slots)) == len(slots), "two pieces of one sequence"
        assert all(0 <= token < self.vocabulary for token in tokens), "no such token"

    def _describe(self) -> c.Model:
        vector, matrix = self._vector, self._matrix
        layers = (c.Layer * self.layers)(*(self._layer(i) for i in range(self.layers)))
        return c.Model(
            *(self.layers, self.width, self.heads, self.ffn_width, layers),
            *(vector(name) for name in ("blocks.0.ln0.weight", "blocks.0.ln0.bias", "ln_out.weight", "ln_out.bias")),
            *(matrix("emb.weight"), matrix("head.weight")),
        )

    def _layer(self, layer: int) -> c.Layer:
        block = f"blocks.{layer}."
        vector, matrix = self._vector, self._matrix
        return c.Layer(
            *(vector(f"{block}{name}") for name in ("ln1.weight", "ln1.bias", "att.mix")),
            *(matrix(f"{block}att.{name}.weight") for name in ("receptance", "key", "value", "output")),
            *(matrix(f"{block}att.{name}") for name in _LOW_RANK),
            c.head_weights(self._tensors, layer),
            *(vector(f"{block}{name}") for name in ("ln2.weight", "ln2.bias", "ffn.x_k")),
            *(matrix(f"{block}ffn.{name}") for name in ("key.weight", "value.columns")),
        )

    def _vector(self, name: str) -> c_void_p:
        return c.floats(self._tensors.get(name))

    def _matrix(self, name: str) -> c.Matrix:
        if name not in self._tensors:  # layer 0 has no v1 and v2
            return c.Matrix()
        return c.matrix(self._tensors[name], self._tensors.get(f"{name}.scales"))
