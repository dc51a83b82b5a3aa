"""Which tiles are fastest on a device: candidates that compute the same, timed one after the other.

Not within a load or a request: `cortexd warmup` does it, and `choices` keeps what comes out.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cortexd_kernels.choices import CANDIDATES, FEW, Choices, Launch, Product, bucket, name
from cortexd_kernels.fused import FusedOperators
from cortexd_kernels.fused.channel import add_columns
from cortexd_kernels.fused.products import products
from cortexd_kernels.native.layout import GROUP, GROUP_BYTES
from cortexd_kernels.operators import Columns, Packed
from cortexd_kernels.pairs import Weight, laid_out

Choice = tuple[int, ...]
Run = Callable[[Choice, int], Tensor]  # with a choice, and the weights of this number: results `[T, R]`
# What is called with rising numbers, of which so many mean different weights: seconds a call.
Measure = Callable[[Callable[[int], object], int], float]

_WORTH = 0.97  # of the formula's time: what is nearer is noise
_ALIKE = 1e-2  # relative RMS between two orders of the same sum
_IDLE = 0.82  # of the activations of a trained model's feed-forward layers are zero
_ROWS = (1, 4, FEW)  # at which tiles of few rows are timed
_MOST_COPIES = 512
_CALLS, _ROUNDS = 20, 9


class Question(NamedTuple):
    """Which tiles for a product, of so many rows; `count` is 0 where it is the same for all."""

    kind: str
    product: Product
    count: int

    @property
    def name(self) -> str:
        return name(*self)


class Asked(Choices):
    """Follows the formula, and puts down in `questions` what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: dict[Question, None] = {}

    def _chosen(self, kind: type[Launch], called: str, product: Product, count: int = 0) -> Launch | None:  # noqa: ARG002
        self.questions[Question(called, product, bucket(count) if count else 0)] = None
        return None


class _Only(Choices):
    """Chooses this, whatever it is asked for."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self._choice = choice

    def _chosen(self, kind: type[Launch], called: str, product: Product, count: int = 0) -> Launch | None:  # noqa: ARG002
        return kind(*self._choice)


def operators_of(choices: Choices) -> FusedOperators:
    return FusedOperators(choices)


def answer(question: Question, device: torch.device, measure: Measure) -> Choice:
    """The fastest choice on `device`; raises what computing with that of the formula does."""
    candidates = CANDIDATES[question.kind](question.product, question.count)
    runs, copies = runs_of(question, device)
    return fastest(candidates, runs, lambda call: measure(call, copies))


def fastest(
    candidates: Sequence[Choice], runs: Sequence[Run], measure: Callable[[Callable[[int], object]], float]
) -> Choice:
    """The first, unless another takes less time for all `runs` together by more than noise.

    What cannot be computed is none, nor what computes something else, or a row otherwise when there are more of them.
    """
    first, *others = candidates
    expected = [run(first, 0) for run in runs]
    times = {first: sum(measure(partial(run, first)) for run in runs)}
    for choice in others:
        try:
            if _alike([run(choice, 0) for run in runs], expected):
                times[choice] = sum(measure(partial(run, choice)) for run in runs)
        except Exception:  # noqa: S112 - a device has no room for every tile
            continue
    best = min(times, key=lambda choice: times[choice])
    return best if times[best] < _WORTH * times[first] else first


def runs_of(question: Question, device: torch.device) -> tuple[list[Run], int]:
    """One for each number of rows, with random weights; so many of these that none is in the device's cache when its turn comes."""
    kind, product, count = question
    split = kind == "split"
    weight, scales, groups = _weights(product, device, by_depth=split)
    copies = min(2 * _cache_bytes(device) // weight.nbytes + 2, _MOST_COPIES)
    counts = _ROWS if count <= FEW else (count,)
    rows = torch.randn(counts[-1], product.depth, device=device)
    if split:
        rows *= torch.rand(product.depth, device=device) >= _IDLE
    rows = rows.to(product.dtype)
    if split:
        values = [Columns(weight.clone(), scales, groups) for _ in range(copies)]
        return [partial(_add_columns, rows[:it], values) for it in counts], copies
    packed = [Packed.single(weight.clone(), scales, groups) for _ in range(copies)]
    return [partial(_multiply, rows[None, :it], packed) for it in counts], copies


def measure_on_gpu(call: Callable[[int], object], copies: int) -> float:
    """Of many calls recorded as one graph: the host is too slow to start such small kernels one by one."""
    calls = max(_CALLS, copies)
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        for number in range(copies):  # each has tables of its own, which are made at its first use
            call(number)
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(calls):
            call(number)
    times = [_seconds(graph) / calls for _ in range(_ROUNDS + 1)]
    return statistics.median(times[1:])


def _seconds(graph: "torch.cuda.CUDAGraph") -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _multiply(rows: Tensor, weights: Sequence[Packed], choice: Choice, number: int) -> Tensor:
    return products(rows, weights[number % len(weights)], _Only(choice))[0]


def _add_columns(active: Tensor, values: Sequence[Columns], choice: Choice, number: int) -> Tensor:
    value = values[number % len(values)]
    x = torch.zeros(len(active), value.width, device=active.device)
    add_columns(x, active, value, _Only(choice))
    return x


def _weights(product: Product, device: torch.device, *, by_depth: bool) -> Weight:
    """`[results, depth]`, or turned: weight, and for integers the scales of rows, for int4 those of groups."""
    shape = (product.depth, product.results) if by_depth else (product.results, product.depth)
    if product.stored.is_floating_point:
        return (torch.randn(shape, device=device) / product.depth**0.5).to(product.stored), None, None
    scales = torch.full(shape[:1], 2.0**-6 / product.depth**0.5, device=device)
    if product.stored is torch.int8:
        return torch.randint(-127, 128, shape, device=device).to(product.stored), scales, None
    numbers = torch.randint(256, (shape[0], shape[1] // GROUP * GROUP_BYTES), device=device)
    return laid_out(numbers.to(product.stored), scales / 4)


def _alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    near = all(
        float((a - b).double().norm()) <= _ALIKE * float(b.double().norm())
        for a, b in zip(found, expected, strict=True)
    )
    return near and all(torch.equal(rows[0], found[0][0]) for rows in found)


def _cache_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
