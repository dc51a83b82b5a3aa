"""The last events, numbered, for whoever reads them late or again."""

import asyncio
import secrets
from collections import deque

import msgspec

from cortexd.events import Event, EventBus

_KEPT = 4096


class Read(msgspec.Struct, frozen=True):
    """What follows after a position."""

    events: list[tuple[int, Event]]
    missed: bool  # there were events before them that are not kept any more


class EventLog:
    """Listens to the bus from the first to the last. Readers have a position and no queue: one that is slow misses events."""

    def __init__(self, bus: EventBus, keep: int = _KEPT) -> None:
        self.run = secrets.token_hex(4)  # of the daemon: ids of another one name other events
        self.last = 0
        self.closed = False
        self._kept: deque[Event] = deque(maxlen=keep)
        self._arrived = asyncio.Event()
        self._listening = bus.subscribed(self._note)
        self._listening.__enter__()

    def id_of(self, number: int) -> str:
        return f"{self.run}-{number}"

    def number_of(self, id: str) -> int | None:
        """None: it is not an id of this run."""
        run, _, number = id.partition("-")
        known = run == self.run and number.isascii() and number.isdigit() and len(number) < 20
        return int(number) if known and int(number) <= self.last else None

    @property
    def oldest(self) -> int:
        """The first that is kept."""
        return self.last - len(self._kept) + 1

    def after(self, number: int, most: int = 256) -> Read:
        """The next events after this one."""
        first = max(number + 1, self.oldest)
        numbers = range(first, min(first + most, self.last + 1))
        return Read([(n, self._kept[n - self.oldest]) for n in numbers], number + 1 < self.oldest)

    async def news(self, number: int, timeout: float) -> bool:  # noqa: ASYNC109 - a time-out is an answer here
        """True once there is something after this one or it is closed, False after `timeout` seconds."""
        if self.last > number or self.closed:
            return True
        try:
            async with asyncio.timeout(timeout):
                return await self._arrived.wait()
        except TimeoutError:
            return False

    def close(self) -> None:
        """Its readers come to their end."""
        self.closed = True
        self._listening.__exit__(None, None, None)
        self._wake()

    def _note(self, event: Event) -> None:
        self._kept.append(event)
        self.last += 1
        self._wake()

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()
