"""Who takes part in the next step."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial

from cortexd.rwkv.prefix_cache import PrefixCache
from cortexd.rwkv.sequence import Sequence
from cortexd.rwkv.state import SavedState, StatePool


class Scheduler:
    """Two queues: sequences that wait for a slot, and those that hold one. A sequence joins and leaves between any two steps."""

    def __init__(self, pool: StatePool, prefill_budget: int, cache: PrefixCache[SavedState] | None = None) -> None:
        self._pool = pool
        self._cache = cache or PrefixCache()
        self._prefill_budget = prefill_budget  # tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def schedule(self) -> list[Sequence]:
        """Every decoding sequence, and prompt pieces in order of arrival up to the budget, but at least one."""
        while self._waiting and self._pool.free:
            sequence = self._waiting.popleft()
            sequence.slot = self._pool.take()
            begun = self._cache.resume(sequence.reading) if not sequence.reading.done else None
            if (state := begun or sequence.state) is not None:
                self._pool.restore(sequence.slot, state)
            sequence.state = None
            self._running.append(sequence)
        chosen = [sequence for sequence in self._running if not sequence.prefilling]
        left = self._prefill_budget
        for sequence in self._running:
            if sequence.prefilling and (left == self._prefill_budget or sequence.next_length <= left):
                chosen.append(sequence)
                left -= sequence.next_length
        return chosen

    def keep(self, chosen: Iterable[Sequence]) -> None:
        """After a step, the states that are to be found again; of those that took part in it."""
        for sequence in chosen:
            if (slot := sequence.slot) is not None:
                self._cache.note(sequence.reading, partial(self._pool.save, slot))

    def finish(self, sequence: Sequence) -> None:
        """The only place where a sequence that holds a slot ends."""
        assert sequence.slot is not None
        self._running.remove(sequence)
        self._pool.give_back(sequence.slot)
        sequence.slot = None

    def cancel(self, id: int) -> None:
        """End the sequence with this id, wherever it is; nothing if it has ended already."""
        for sequence in self._all():
            if sequence.id == id:
                if sequence.slot is None:
                    self._waiting.remove(sequence)
                else:
                    self.finish(sequence)
                return

    def take_out(self) -> Iterator[tuple[Sequence, SavedState | None]]:
        """Every sequence, which is one no more, with its state; None where it has none yet."""
        for sequence in self._all():
            if sequence.slot is None:
                self._waiting.remove(sequence)
                yield sequence, sequence.state
            else:
                state = self._pool.save(sequence.slot)
                self.finish(sequence)
                yield sequence, state

    def check_idle(self) -> None:
        """What must hold when nothing runs: every slot is free."""
        assert not self._running
        self._pool.check()
        assert self._pool.free == self._pool.slots, "a slot is held by nobody"

    def _all(self) -> Iterator[Sequence]:
        yield from tuple(self._running)
        yield from tuple(self._waiting)
