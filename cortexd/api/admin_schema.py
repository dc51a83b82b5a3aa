"""What `/admin` takes and answers. Sizes are in bytes, times in seconds."""

from typing import Annotated

import msgspec
from msgspec import Meta

from cortexd.api.schema import AdminPriority
from cortexd.catalogue.spec import Limits, ModelSpec, SamplingDefaults
from cortexd.events import Arithmetic
from cortexd.lifecycle.view import ModelStatus


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Body of what is done to a model; it may be left out."""

    wait: bool = True  # answer when it is done, not when it has begun
    force: bool = False  # unload what is in use, or waited for
    priority: AdminPriority = "admin"  # of a load: before or after what others preload


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    load: Annotated[str, Meta(max_length=256)]


class SpecFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is configured to be."""

    hash: str
    source: str
    path: str
    size: int  # on disk
    architecture: str
    engine: str
    strategy: str
    template: str
    threads: int
    max_concurrency: int
    aliases: tuple[str, ...]
    keep_alive: float | None
    pin: bool
    state: str | None
    sampling: SamplingDefaults
    limits: Limits
    problem: str | None


class ModelReport(msgspec.Struct, frozen=True):
    id: str
    status: ModelStatus
    spec: SpecFacts


class ModelReports(msgspec.Struct, frozen=True):
    models: list[ModelReport]


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    ceiling: int
    resident: int
    reserved: int  # by loads under way
    debt: int  # of unloads that have not given it back yet
    foreign: int  # what other programs use of the ceiling
    free: int


class ModelMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A model that holds memory, and whether it would have to go if others needed it."""

    model: str
    state: str
    memory: dict[str, int]  # by device
    pinned: bool
    cost: float | None  # expected seconds of loading per second that it is gone
    why_not: str  # it may not go now because …


class PredictionReport(msgspec.Struct, frozen=True, kw_only=True):
    """How well models were foretold; below 30 % predictions switch themselves off, above 45 % on again."""

    active: bool
    hits: int
    misses: int
    hit_rate: float  # of late


class MemoryReport(msgspec.Struct, frozen=True):
    devices: dict[str, DeviceMemory]
    models: list[ModelMemory]
    victims_by: str  # what decides who goes: "expected cost" or "last use", whichever has foretold better of late
    prediction: PredictionReport | None  # None: switched off


def spec_facts(spec: ModelSpec) -> SpecFacts:
    return msgspec.convert(spec, SpecFacts, from_attributes=True)


def device_memory(at: Arithmetic) -> DeviceMemory:
    return msgspec.convert(at, DeviceMemory, from_attributes=True)
