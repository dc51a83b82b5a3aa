"""Whether operators compute on a device what the plain ones do, found out on random numbers in a moment.

`python -m cortexd_kernels.self_check DEVICE DTYPE [MODULE:NAME]` does it in a process of its own, which a kernel may crash or hang
without harm: it writes a line of JSON with each case that it begins, {"begin": …}, and one with what it found, a `Finding`.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cortexd_kernels.draws import Draw, packed
from cortexd_kernels.native.layout import FORMATS, NAMES, pack
from cortexd_kernels.operators import (
    HEAD,
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
    Streams,
)
from cortexd_kernels.pairs import Weight, laid_out
from cortexd_kernels.plain import PlainOperators

FUSED = "cortexd_kernels.fused:FusedOperators"

_HEADS, _RANK, _F, _SLOTS = 2, 32, 96, 4
_C = _HEADS * HEAD
_V = 4129  # more weights than are multiplied in small tiles, more tokens than are drawn from together
_TOLERANCE = {
    torch.float32: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}  # relative RMS; a GPU may round fp32 products to TF32
# Lengths and slots of pieces: a single token, some with one masked, those with part of a prompt, more rows than are computed one
# by one, and a prompt that is computed by chunks beside single tokens.
_BATCHES = (
    ([1], [2]),
    ([1, 1, 1], [2, 0, -1]),
    ([1, 3, 1], [2, 0, -1]),
    ([20, 1], [1, 3]),
    ([66, 1, 1], [1, 3, 0]),
)
_DRAWS = (
    Draw(temperature=0.0),
    Draw(uniform=0.1),
    Draw(uniform=0.9),
    Draw(temperature=0.5, uniform=0.6),
    Draw(top_k=40, uniform=0.3),
    Draw(temperature=2.0, top_k=400, uniform=0.7),
)

Results = list[Tensor]
_Case = Callable[[Operators], Results]


class Finding(NamedTuple):
    """A sentence about the first operator that computes something else, or cannot compute; "" where all is well.

    It is `passing` where nothing was computed: there may have been no memory.
    """

    problem: str
    passing: bool = False


def check(
    operators: Operators, device: torch.device, dtype: torch.dtype, begin: Callable[[str], None] = lambda _: None
) -> Finding:
    """With weights in `dtype`, int8 and int4 beside activations in bf16; `begin` is told what is computed next."""
    judge = PlainOperators()
    activations = dtype if dtype.is_floating_point else torch.bfloat16
    for name, case in _cases(device, activations, dtype, draws=operators.sample is not None):
        begin(name)
        try:
            found, expected = case(operators), case(judge)
            differences = list(map(_difference, found, expected))
        except Exception as error:  # whatever a compiler or a driver raises
            return Finding(f"{name} cannot be computed on {device}: {type(error).__name__}: {_first_line(error)}", True)
        for difference in differences:
            if not difference <= _TOLERANCE[activations]:  # also where it is not a number
                return Finding(f"{name} computes wrongly on {device} in {NAMES[dtype]}: it is off by {difference:.1g}")
    return Finding("")


def _cases(
    device: torch.device, activations: torch.dtype, dtype: torch.dtype, *, draws: bool
) -> Iterator[tuple[str, _Case]]:
    """What is computed, and by what: on copies, to all that it gives and changes."""
    numbers = _Numbers(device, activations, dtype)
    for lengths, slots in _BATCHES:
        rows = Rows.of(lengths, slots, device)
        for name, case in _of(rows, numbers).items():
            yield f"{name} of {sum(lengths)} {'rows' if sum(lengths) > 1 else 'row'}", case
    if draws:
        yield "sample", _sampling(numbers)


class _Numbers:
    """Random, and the same each time."""

    def __init__(self, device: torch.device, dtype: torch.dtype, weights: torch.dtype) -> None:
        self.device, self.dtype, self.weights = device, dtype, weights
        self._generator = torch.Generator().manual_seed(20230424)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=self._generator) * scale).to(self.device)

    def between(self, *shape: int) -> Tensor:
        """0 and 1."""
        return torch.rand(*shape, generator=self._generator).to(self.device)

    def activations(self, *shape: int) -> Tensor:
        return self(*shape).to(self.dtype)

    def matrix(self, *shape: int) -> Tensor:
        """Of a low-rank product."""
        return self(*shape, scale=shape[-1] ** -0.5).to(self.dtype)

    def weight(self, rows: int, columns: int, stored: torch.dtype | None = None) -> Weight:
        """A large matrix, the scales of its rows and those of groups."""
        numbers, scales = pack(self(rows, columns, scale=columns**-0.5).cpu(), stored or self.weights)
        return laid_out(numbers.to(self.device), None if scales is None else scales.to(self.device))

    def single(self, rows: int, columns: int, activation: Activation = Activation.NONE) -> Packed:
        return Packed.single(*self.weight(rows, columns), activation=activation)

    def head(self) -> Packed:
        """Which int4 leaves in int8."""
        return Packed.single(*self.weight(_V, _C, torch.int8 if self.weights is torch.uint8 else None))


def _of(rows: Rows, numbers: _Numbers) -> dict[str, _Case]:
    count, dtype, matrix = int(rows.starts[-1]), numbers.dtype, numbers.matrix
    x, wide = numbers(count, _C), numbers.activations(1, count, _C)
    shift, wkv = numbers(_SLOTS, _C), numbers(_SLOTS, _HEADS, HEAD, HEAD)
    norm = Norm(numbers(_C), numbers(_C))
    mix, readout = Mix(norm, numbers.between(6, _C)), Readout(numbers(_C), norm)
    weight, scales, groups = numbers.weight(_C + _RANK, _C)
    packed = Packed(weight, (Part(_C, 0), Part(_RANK, 0, Activation.TANH)), scales, groups)
    inner = Inner(*(numbers.activations(count, n) for n in (_C, _C, _C, _RANK, _RANK, _RANK, _RANK)))
    vectors = [numbers(_C) for _ in range(5)]
    out = LowRankOut(*(matrix(_C, _RANK) for _ in range(3)), *vectors[:4], v=matrix(_C, _RANK), v0=vectors[4])
    streams = _streams(inner, dtype)
    output, head = numbers.single(_C, _C), numbers.head()
    key, value = numbers.single(_F, _C, Activation.RELU_SQUARED), Columns(*numbers.weight(_F, _C))

    def shift_mix(ops: Operators) -> Results:
        state = shift.clone()
        return [ops.shift_mix(x, rows, state, mix, dtype), state]

    def recurrence(ops: Operators, states: torch.dtype = torch.float32) -> Results:
        state = wkv.to(states, copy=True)
        return [ops.wkv(streams, rows, state, readout), state]

    def product_add(ops: Operators) -> Results:
        total = x.clone()
        ops.product_add(total, wide[0], output)
        return [total]

    def channel_mix(ops: Operators) -> Results:
        total = x.clone()
        ops.channel_mix(total, wide, key, value)
        return [total]

    return {
        "shift_mix": shift_mix,
        "products": lambda ops: list(ops.products(wide, packed)),
        "head_streams": lambda ops: list(ops.head_streams(inner, out, inner.r)),
        "wkv": recurrence,
        "wkv with states in fp16": partial(recurrence, states=torch.float16),
        "product_add": product_add,
        "channel_mix": channel_mix,
        "logits": lambda ops: [ops.logits(x, rows.starts[1:] - 1, norm, head, dtype)],
    }


def _streams(inner: Inner, dtype: torch.dtype) -> Streams:
    """As a layer would make them: decays between 0.5453 and 1, κ of length 1."""
    r, k, v = inner.r, inner.k, inner.v
    kappa = torch.nn.functional.normalize(k.float().unflatten(1, (-1, HEAD)), dim=-1).flatten(1)
    w = torch.exp(-0.6065306597126334 * torch.sigmoid(v.float()))
    return Streams(r, w, k, v, kappa.to(dtype), torch.sigmoid(r), v)


def _sampling(numbers: _Numbers) -> _Case:
    logits = numbers(len(_DRAWS), _V, scale=3.0)

    def sampling(ops: Operators) -> Results:
        tokens = drawn(logits, _DRAWS) if ops.sample is None else ops.sample(logits, packed(_DRAWS, logits.device))
        return [torch.nn.functional.one_hot(tokens.long().clamp(min=0), _V)]

    return sampling


def drawn(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The definition, as far as it is checked: of each row the largest of the logits, or the first token at which the running sum
    of e^(logit / temperature), over the `top_k` largest, exceeds `uniform` of them all.
    """
    tokens: list[Tensor] = []
    for row, draw in zip(logits.double(), draws, strict=True):
        ranks = row.argsort(descending=True, stable=True).argsort()
        few = 1 if draw.temperature == 0.0 else draw.top_k or len(row)
        weights = torch.softmax(row / (draw.temperature or 1.0), 0).masked_fill(ranks >= few, 0.0)
        sums = weights.cumsum(0)
        tokens.append((sums <= draw.uniform * sums[-1]).sum())
    return torch.stack(tokens)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Relative RMS; not a number where one of `found` is none."""
    size = float(expected.double().pow(2).mean().sqrt())
    return float((found.double() - expected.double()).pow(2).mean().sqrt()) / (size or 1.0)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _tell(**line: object) -> None:
    print(json.dumps(line), flush=True)


def _main(device: str, dtype: str, operators: str = FUSED) -> None:
    _tell(begin="the import of the kernels")
    module, _, name = operators.partition(":")
    made: Operators = getattr(importlib.import_module(module), name)()
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)  # kernels are started there, not where their tensors are
    finding = check(made, where, FORMATS[dtype], lambda step: _tell(begin=step))
    _tell(**finding._asdict())


if __name__ == "__main__":
    _main(*sys.argv[1:])
