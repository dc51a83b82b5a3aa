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


def _cases(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[Operators], Results]]:
    """By operator: computes it on copies, and returns all that it gives and changes."""
    generator = torch.Generator().manual_seed(20230424)

    def draw(*shape: int, scale: float = 1.0, to: torch.dtype = torch.float32) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, to)

    def matrix(*shape: int) -> Tensor:
        return draw(*shape, scale=shape[-1] ** -0.5, to=dtype)

    norm = Norm(draw(_C), draw(_C))
    cases: dict[str, Callable[[Operators], Results]] = {}
    # A masked piece, a single token and some of a prompt; then more rows than are computed one by one.
    for rows in (Rows.of([1, 3, 1], [2, 0, -1], device), Rows.of([40, 1], [1, 3], device)):
        count = int(rows.starts[-1])
        x, wide = draw(count, _C), draw(1, count, _C, to=dtype)
        shift, wkv = draw(_SLOTS, _C), draw(_SLOTS, _HEADS, HEAD, HEAD)
        mix = Mix(norm, torch.rand(6, _C, generator=generator).to(device))
        packed = Packed(torch.cat([matrix(_C, _C), matrix(_RANK, _C)]), (Part(_C, 0), Part(_RANK, 0, Activation.TANH)))
        inner = Inner(*(draw(count, n, to=dtype) for n in (_C, _C, _C, _RANK, _RANK, _RANK, _RANK)))
        out = LowRankOut(
            *(matrix(_C, _RANK) for _ in range(3)), *(draw(_C) for _ in range(4)), v=matrix(_C, _RANK), v0=draw(_C)
        )
        streams = _streams(inner, dtype)
        readout = Readout(draw(_C), norm)
        output = Packed.single(matrix(_C, _C))
        key, value = Packed.single(matrix(_F, _C), activation=Activation.RELU_SQUARED), Columns(matrix(_F, _C))
        head, chosen = Packed.single(matrix(_V, _C)), rows.starts[1:] - 1
        of = f" of {count} rows"

        def shift_mix(
            ops: Operators, x: Tensor = x, rows: Rows = rows, shift: Tensor = shift, mix: Mix = mix
        ) -> Results:
            state = shift.clone()
            return [ops.shift_mix(x, rows, state, mix, dtype), state]

        def recurrence(
            ops: Operators, streams: Streams = streams, rows: Rows = rows, wkv: Tensor = wkv, readout: Readout = readout
        ) -> Results:
            state = wkv.clone()
            return [ops.wkv(streams, rows, state, readout), state]

        def product_add(ops: Operators, x: Tensor = x, wide: Tensor = wide, output: Packed = output) -> Results:
            sum_ = x.clone()
            ops.product_add(sum_, wide[0], output)
            return [sum_]

        def channel_mix(
            ops: Operators, x: Tensor = x, wide: Tensor = wide, key: Packed = key, value: Columns = value
        ) -> Results:
            sum_ = x.clone()
            ops.channel_mix(sum_, wide, key, value)
            return [sum_]

        cases[f"shift_mix{of}"] = shift_mix
        cases[f"products{of}"] = lambda ops, wide=wide, packed=packed: list(ops.products(wide, packed))
        cases[f"head_streams{of}"] = lambda ops, inner=inner, out=out: list(ops.head_streams(inner, out, inner.r))
        cases[f"wkv{of}"] = recurrence
        cases[f"product_add{of}"] = product_add
        cases[f"channel_mix{of}"] = channel_mix
        cases[f"logits{of}"] = lambda ops, x=x, chosen=chosen, head=head: [ops.logits(x, chosen, norm, head, dtype)]
    return cases


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
