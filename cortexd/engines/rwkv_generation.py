"""One answer of our own engine in the making, and many that wait to go on in another worker."""

import asyncio
from collections import deque
from collections.abc import Callable

from cortexd import wire
from cortexd.errors import CortexdError


class RwkvGeneration:
    """One answer in the making; the deltas it has not been asked for yet wait here."""

    def __init__(self, id: int, cancelled: Callable[[int], None]) -> None:
        self.belong(id, cancelled)
        self._deltas: deque[wire.Delta] = deque()
        self._error: CortexdError | None = None
        self._over = False
        self._news = asyncio.Event()

    def __aiter__(self) -> "RwkvGeneration":
        return self

    async def __anext__(self) -> wire.Delta:
        while not self._deltas:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._deltas.popleft()

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            self._cancelled(self._id)
            self._news.set()

    def belong(self, id: int, cancelled: Callable[[int], None]) -> None:
        """From now on whoever gave it this id is told if it is cancelled."""
        self._id = id
        self._cancelled = cancelled

    def push(self, delta: wire.Delta) -> None:
        self._deltas.append(delta)
        self._over = delta.finish is not None
        self._news.set()

    def fail(self, error: CortexdError) -> None:
        self._over = True
        self._error = error
        self._news.set()


class RwkvSuspension:
    """Implements `cortexd.engines.protocol.Suspension`: generations and what their worker has saved of each."""

    def __init__(self) -> None:
        self._saved: dict[int, tuple[RwkvGeneration, list[bytes]]] = {}

    @property
    def size(self) -> int:
        return sum(len(part) for _, parts in self._saved.values() for part in parts)

    def take_in(self, id: int, generation: RwkvGeneration) -> None:
        """It is this suspension's from now on."""
        self._saved[id] = (generation, [])
        generation.belong(id, self._drop)

    def add(self, id: int, part: bytes) -> None:
        """The next part of what was saved; of no use where the answer has been given up."""
        if id in self._saved:
            self._saved[id][1].append(part)

    def release(self) -> list[tuple[RwkvGeneration, list[bytes]]]:
        """All of it, for whoever goes on with them."""
        released = list(self._saved.values())
        self._saved.clear()
        return released

    def fail(self, error: CortexdError) -> None:
        for generation, _ in self.release():
            generation.fail(error)

    def _drop(self, id: int) -> None:
        del self._saved[id]
