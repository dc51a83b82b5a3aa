"""What happened, and the bus that tells everyone who asked."""

import contextlib
from collections.abc import Callable, Generator
from typing import Literal

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """Something that happened; `at` is wall-clock time in seconds since the epoch."""

    at: float


class ModelMoved(Event, frozen=True, kw_only=True):
    """A model went from one lifecycle state to another, published by its one writer."""

    model: str
    incarnation: int
    before: str
    after: str
    reason: str


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a decision considered, and what it would have cost to let it go."""

    model: str
    frees: dict[str, int]  # bytes by device
    cost: float  # of doing without it: expected seconds of loading per second, or a rank by its last use
    why_not: str = ""  # "in use", "pinned", "loaded 2 s ago"; empty where it might have gone
    chosen: bool = False


class Arithmetic(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one device at a decision, in bytes."""

    ceiling: int
    resident: int
    reserved: int  # by loads under way
    debt: int  # of unloads that have not been seen to give it back
    foreign: int = 0  # what others use of the ceiling
    needed: int = 0

    @property
    def free(self) -> int:
        return self.ceiling - self.resident - self.reserved - self.debt - self.foreign


DecisionKind = Literal[
    "load", "queue", "evict", "park", "unload", "refuse", "fail", "abandon", "close", "rescue", "suspend", "pin", "unpin",
    "predict", "restore", "crash", "share", "fallback", "degrade",
]  # fmt: skip


class Decided(Event, frozen=True, kw_only=True):
    """A decision of the supervisor: what, why in one plain sentence, for whom, and what was weighed."""

    kind: DecisionKind
    model: str
    incarnation: int
    reason: str
    owner: str | None = None  # the request, or "admin", "preload", "prediction", that caused it
    weighed: list[Weighed] = []
    memory: dict[str, Arithmetic] = {}  # by device
    config: int | None = None  # version of the configuration


class MemoryWarning(Event, frozen=True, kw_only=True):
    """A device is nearly full, the kernel reports pressure, or other programs have grown."""

    device: str
    used: int
    ceiling: int
    reason: str


class Chosen(msgspec.Struct, frozen=True):
    """Which of the targets of an alias a request was led to."""

    alias: str  # in lower case
    target: str
    session: str  # by which it was chosen, as a digest


class RequestEnded(Event, frozen=True, kw_only=True):
    """One HTTP request on a model's behalf ended; durations in milliseconds."""

    request: str
    model: str
    chosen: Chosen | None = None  # where it was asked for by an alias
    config: str = ""  # version of the configuration that answered: "18", "18; fallback=17"
    fallback: str = ""  # why it was not as configured: "loading" or "failed"
    route: str
    status: int
    finish: str
    queue_ms: float
    load_ms: float = 0.0
    first_token_ms: float | None
    total_ms: float
    prompt_tokens: int
    cached_tokens: int = 0  # of the prompt, that did not have to be read again
    completion_tokens: int


class ConfigurationChanged(Event, frozen=True, kw_only=True):
    """Another version of the configuration is in force."""

    version: int
    source: str
    author: str
    reason: str
    restored_from: int | None
    changed: list[str]  # keys that differ from the version before


class ConfigurationRefused(Event, frozen=True, kw_only=True):
    """What was to be in force was not valid or could not be kept; the version in force stays."""

    problem: str  # one sentence a line


class SessionLost(Event, frozen=True, kw_only=True):
    """What a session was left with is not kept, or no longer; its next turn is read from the beginning, or from an earlier one."""

    session: str
    tenant: str
    model: str
    reason: str


Listener = Callable[[Event], None]


class EventBus:
    """Synchronous publish and subscribe. A listener returns at once and raises nothing; slow work belongs in a task."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def publish(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    @contextlib.contextmanager
    def subscribed(self, listener: Listener) -> Generator[None]:
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
