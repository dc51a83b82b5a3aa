"""What happened, and the bus that tells everyone who asked."""

import contextlib
from collections.abc import Callable, Generator

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


class RequestEnded(Event, frozen=True, kw_only=True):
    """One HTTP request on a model's behalf ended; durations in milliseconds."""

    request: str
    model: str
    route: str
    status: int
    finish: str
    queue_ms: float
    first_token_ms: float | None
    total_ms: float
    prompt_tokens: int
    completion_tokens: int


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
