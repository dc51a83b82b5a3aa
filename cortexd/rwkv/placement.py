"""A model's weights on the devices that its strategy names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from cortexd.checkpoints.shape import ModelShape
from cortexd.errors import LoadFailed
from cortexd.rwkv.checkpoint import ReportBytes
from cortexd.rwkv.fused import Station
from cortexd.rwkv.kept_weights import KeptWeights
from cortexd.rwkv.state import Home
from cortexd.rwkv.weights import Weights, open_weights
from cortexd.rwkv.weights_cache import WeightsCache
from cortexd.strategies import Stretch, described, parse, plan
from cortexd_kernels.dispatch import operators_for
from cortexd_kernels.draws import Sample
from cortexd_kernels.native.layout import FORMATS

_HOST = "cpu"


@dataclass(frozen=True)
class Placed:
    """A model shared out over devices. `notices` say in one sentence each what is not as it should be."""

    shape: ModelShape
    strategy: str
    bytes: int
    stations: list[Station]
    notices: list[str]
    trusted: bool  # a token has been computed with all of them before
    fresh: list[KeptWeights]  # written by this load

    @property
    def sample(self) -> Sample | None:
        """Draws where the head is computed."""
        return self.stations[-1].operators.sample

    @property
    def homes(self) -> list[Home]:
        """Of the states of each layer."""
        homes: list[Home] = []
        for station in self.stations:
            home = Home(station.device, station.states)
            homes += [home] * (min(station.end, self.shape.layers) - station.first)
        return homes


def gpu_problem(strategy: str) -> str:
    """Why nothing can be computed on the GPUs that are named; "" where it can, or where none is."""
    devices = [device for device in _devices(strategy) if device != _HOST]
    if devices and not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    missing = [device for device in devices if (torch.device(device).index or 0) >= torch.cuda.device_count()]
    return f"there is no {missing[0]}, only {torch.cuda.device_count()} of them" if missing else ""


def place(path: Path, strategy: str, cache: WeightsCache | None, report: ReportBytes) -> Placed:
    """Raises LoadFailed with one sentence."""
    try:
        segments = parse(strategy)
    except ValueError as error:
        raise LoadFailed(str(error)) from error
    # The same layout for all: that of the native kernels is what the fused operators take.
    opened = {
        name: open_weights(path, f"{_HOST} {name}", cache, report) for name in {it.dtype: None for it in segments}
    }
    shape = next(iter(opened.values())).shape
    stretches = plan(segments, shape.layers)
    notices: list[str] = []
    total = _bytes(stretches, opened)
    # A load that says nothing for two minutes is given up, and to check kernels for the first time may take as long.
    alive = partial(report, total, total)
    kept = None if cache is None else cache.directory
    stations = [_station(stretch, opened[stretch.dtype], notices, kept, alive) for stretch in stretches]
    return Placed(
        shape=shape,
        strategy=described(stretches),
        bytes=total,
        stations=stations,
        notices=notices,
        trusted=all(weights.trusted for weights in opened.values()),
        fresh=[weights.fresh for weights in opened.values() if weights.fresh is not None],
    )


def _station(
    stretch: Stretch, weights: Weights, notices: list[str], cache: Path | None, alive: Callable[[], None]
) -> Station:
    device = torch.device(stretch.device)
    operators, problem = operators_for(device, weights.strategy.dtype, cache, alive)
    if problem and problem not in notices:
        notices.append(problem)
    states = FORMATS[stretch.states]
    return Station(weights.tensors, operators, device, stretch.first, stretch.end, stretch.resident, states)


def _bytes(stretches: Sequence[Stretch], opened: dict[str, Weights]) -> int:
    """Of all layers, each in its own numbers; about, where they are of several."""
    total = sum(stretch.end - stretch.first for stretch in stretches)
    return sum(opened[it.dtype].bytes * (it.end - it.first) // total for it in stretches)


def _devices(strategy: str) -> list[str]:
    try:
        return [segment.device for segment in parse(strategy)]
    except ValueError:  # `place` says so
        return []
