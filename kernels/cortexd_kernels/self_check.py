"""Whether operators compute on a device what the plain ones do, found out on random numbers in a moment."""

from collections.abc import Callable

import torch
from torch import Tensor

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
from cortexd_kernels.plain import PlainOperators

_HEADS, _RANK, _F, _V, _SLOTS = 2, 32, 96, 97, 4
_C = _HEADS * HEAD
_TOLERANCE = {
    torch.float32: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}  # relative RMS; a GPU may round fp32 products to TF32

Results = list[Tensor]
_Case = Callable[[Operators], Results]


def problem_of(operators: Operators, device: torch.device, dtype: torch.dtype) -> str:
    """One sentence about the first operator that computes something else, or cannot compute; "" where all is well."""
    judge = PlainOperators()
    for name, case in _cases(device, dtype).items():
        try:
            found, expected = case(operators), case(judge)
        except Exception as error:  # whatever a compiler or a driver raises
            return f"{name} cannot be computed on {device}: {type(error).__name__}: {_first_line(error)}"
        for difference in map(_difference, found, expected):
            if not difference <= _TOLERANCE[dtype]:  # also where it is not a number
                number = str(dtype).removeprefix("torch.")
                return f"{name} computes wrongly on {device} in {number}: it is off by {difference:.1g}"
    return ""


def _cases(device: torch.device, dtype: torch.dtype) -> dict[str, _Case]:
    """By operator: computes it on copies, and returns all that it gives and changes."""
    numbers = _Numbers(device, dtype)
    # A masked piece, a single token and some of a prompt; then more rows than are computed one by one.
    batches = Rows.of([1, 3, 1], [2, 0, -1], device), Rows.of([40, 1], [1, 3], device)
    return {
        f"{name} of {int(rows.starts[-1])} rows": case for rows in batches for name, case in _of(rows, numbers).items()
    }


class _Numbers:
    """Random, and the same each time."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(20230424)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=self._generator) * scale).to(self.device)

    def between(self, *shape: int) -> Tensor:
        """0 and 1."""
        return torch.rand(*shape, generator=self._generator).to(self.device)

    def activations(self, *shape: int) -> Tensor:
        return self(*shape).to(self.dtype)

    def matrix(self, *shape: int) -> Tensor:
        return self(*shape, scale=shape[-1] ** -0.5).to(self.dtype)


def _of(rows: Rows, numbers: _Numbers) -> dict[str, _Case]:
    count, dtype, matrix = int(rows.starts[-1]), numbers.dtype, numbers.matrix
    x, wide = numbers(count, _C), numbers.activations(1, count, _C)
    shift, wkv = numbers(_SLOTS, _C), numbers(_SLOTS, _HEADS, HEAD, HEAD)
    norm = Norm(numbers(_C), numbers(_C))
    mix, readout = Mix(norm, numbers.between(6, _C)), Readout(numbers(_C), norm)
    packed = Packed(torch.cat([matrix(_C, _C), matrix(_RANK, _C)]), (Part(_C, 0), Part(_RANK, 0, Activation.TANH)))
    inner = Inner(*(numbers.activations(count, n) for n in (_C, _C, _C, _RANK, _RANK, _RANK, _RANK)))
    vectors = [numbers(_C) for _ in range(5)]
    out = LowRankOut(*(matrix(_C, _RANK) for _ in range(3)), *vectors[:4], v=matrix(_C, _RANK), v0=vectors[4])
    streams = _streams(inner, dtype)
    output, head = Packed.single(matrix(_C, _C)), Packed.single(matrix(_V, _C))
    key, value = Packed.single(matrix(_F, _C), activation=Activation.RELU_SQUARED), Columns(matrix(_F, _C))

    def shift_mix(ops: Operators) -> Results:
        state = shift.clone()
        return [ops.shift_mix(x, rows, state, mix, dtype), state]

    def recurrence(ops: Operators) -> Results:
        state = wkv.clone()
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


def _difference(found: Tensor, expected: Tensor) -> float:
    """Relative RMS; not a number where one of `found` is none."""
    size = float(expected.double().pow(2).mean().sqrt())
    return float((found.double() - expected.double()).pow(2).mean().sqrt()) / (size or 1.0)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
