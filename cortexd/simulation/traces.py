"""What was asked for and when: recorded traces as JSON lines, and seeded generators of the shapes that demand takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

from cortexd.errors import InvalidConfiguration

_GB = 10**9
_SMALLEST, _LARGEST = 1.0, 12.0  # GB, drawn log-uniformly: a family from 0.4B to 6B parameters in 16 bits
_DISK = 1.0 * _GB  # bytes/s
_START = 1.5  # seconds of a load that do not depend on the size
_GAP = 60.0  # seconds between two requests, on average
_DAY = 86400.0

Positive = Annotated[float, Meta(gt=0)]


class TraceModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model of a trace: what it occupies while loaded, and how long a load takes."""

    name: Annotated[str, Meta(min_length=1)]
    bytes: Annotated[int, Meta(gt=0)]
    load_seconds: Positive


class TraceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`at` is in seconds from any origin. How long the model then served it is recorded; the sequential model of `replay`
    does not look at it."""

    at: float
    model: str
    seconds_of_service: Annotated[float, Meta(ge=0)] = 0.0


class Trace(msgspec.Struct, frozen=True):
    """Requests in order of time, each for one of `models`."""

    models: tuple[TraceModel, ...]
    requests: tuple[TraceRequest, ...]


def write_trace(trace: Trace, path: Path) -> None:
    """One line a model, then one line a request."""
    lines = [msgspec.json.encode(line) for line in (*trace.models, *trace.requests)]
    path.write_bytes(b"\n".join([*lines, b""]))


def read_trace(path: Path) -> Trace:
    """A file of JSON lines: models as {"name", "bytes", "load_seconds"}, before requests as {"at", "model",
    "seconds_of_service"}. Empty lines are skipped. Raises InvalidConfiguration, naming file and line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error.strerror}.") from error
    models: dict[str, TraceModel] = {}
    requests: list[TraceRequest] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            _read_line(line, models, requests)
        except ValueError as error:  # msgspec's own errors are ValueErrors too
            raise InvalidConfiguration(f"{path}, line {number}: {error}.") from error
    if not requests:
        raise InvalidConfiguration(f"{path} holds no request.")
    return Trace(tuple(models.values()), tuple(requests))


def _read_line(line: bytes, models: dict[str, TraceModel], requests: list[TraceRequest]) -> None:
    """Raises ValueError."""
    fields = msgspec.json.decode(line, type=dict[str, object])
    if "name" in fields:
        model = msgspec.convert(fields, TraceModel)
        if model.name in models:
            raise ValueError(f"the model {model.name!r} is described twice")
        models[model.name] = model
        return
    request = msgspec.convert(fields, TraceRequest)
    if request.model not in models:
        raise ValueError(f"no line before this one describes the model {request.model!r}")
    if requests and request.at < requests[-1].at:
        raise ValueError("the request comes before the one above it; a trace is in order of time")
    requests.append(request)


def generate(kind: str, *, seed: int = 0, models: int = 12, requests: int = 1000) -> Trace:
    """The trace of this kind, of `GENERATORS`; the same arguments give the same trace."""
    random = Random(f"{kind} {seed} {models}")  # noqa: S311 - a trace is not a secret
    described = _draw_models(random, models)
    return Trace(described, tuple(GENERATORS[kind](random, described, requests)))


def _draw_models(random: Random, count: int) -> tuple[TraceModel, ...]:
    """Sizes log-uniform and independent of popularity, which is the order of the models."""
    sizes = [int(_GB * _SMALLEST * (_LARGEST / _SMALLEST) ** random.random()) for _ in range(count)]
    return tuple(
        TraceModel(f"model-{rank:02d}", size, round(_START + size / _DISK, 3)) for rank, size in enumerate(sizes, 1)
    )


def _request(random: Random, at: float, model: TraceModel) -> TraceRequest:
    return TraceRequest(round(at, 3), model.name, round(random.expovariate(1 / 8.0), 3))


def _popularity(count: int) -> list[float]:
    """Zipf's law with exponent 1."""
    return [1 / rank for rank in range(1, count + 1)]


def _zipf(random: Random, models: Sequence[TraceModel], count: int) -> Iterator[TraceRequest]:
    """Independent draws: the past says how popular a model is and nothing else."""
    at = 0.0
    for model in random.choices(models, _popularity(len(models)), k=count):
        at += random.expovariate(1 / _GAP)
        yield _request(random, at, model)


def _diurnal(random: Random, models: Sequence[TraceModel], count: int) -> Iterator[TraceRequest]:
    """Each model has an hour at which it is popular; nights are quiet."""
    peaks = [random.random() for _ in models]
    at = 0.0
    for _ in range(count):
        load = 0.2 + _daylight(at, 0.5)
        at += random.expovariate(load / (2 * _GAP))
        weights = [
            popular * (0.02 + _daylight(at, peak) ** 2)
            for popular, peak in zip(_popularity(len(models)), peaks, strict=True)
        ]
        yield _request(random, at, random.choices(models, weights)[0])


def _daylight(at: float, peak: float) -> float:
    """0 to 1; 1 at the fraction `peak` of each day."""
    return 0.5 + 0.5 * math.cos(2 * math.pi * (at / _DAY - peak))


def _bursty(random: Random, models: Sequence[TraceModel], count: int) -> Iterator[TraceRequest]:
    """Conversations: each of one model, of some ten requests close together; a few at the same time."""
    requests: list[TraceRequest] = []
    start = 0.0
    while (
        len(requests) < 2 * count
    ):  # twice, so that the earliest `count` are from a time with every conversation begun
        start += random.expovariate(1 / (10 * _GAP))
        at = start
        model = random.choices(models, _popularity(len(models)))[0]
        while random.random() < 0.9:
            requests.append(_request(random, at, model))
            at += random.expovariate(1 / (_GAP / 2))
    requests.sort(key=lambda request: request.at)
    yield from requests[:count]


def _alternating(random: Random, models: Sequence[TraceModel], count: int) -> Iterator[TraceRequest]:
    """An agent that asks two or three models in turn, some twenty rounds long, then others."""
    at, made = 0.0, 0
    while made < count:
        turns = random.sample(models, min(len(models), random.choice((2, 3))))
        for _ in range(random.randint(10, 30)):
            for model in turns:
                at += random.expovariate(1 / _GAP)
                if made < count:
                    yield _request(random, at, model)
                made += 1


GENERATORS: dict[str, Callable[[Random, Sequence[TraceModel], int], Iterator[TraceRequest]]] = {
    "zipf": _zipf,
    "diurnal": _diurnal,
    "bursty": _bursty,
    "alternating": _alternating,
}
