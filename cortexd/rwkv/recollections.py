"""Answers that have ended, read once more as the next turn will tell them: then that has to read nothing but the new message."""

from collections import deque
from collections.abc import Callable
from functools import partial

from cortexd.rwkv.batch import Piece
from cortexd.rwkv.prefix_cache import PrefixCache
from cortexd.rwkv.reading import Reading
from cortexd.rwkv.sequence import Sequence
from cortexd.rwkv.state import SavedState, StatePool

_MOST = 32  # answers that wait to be read; the oldest are given up
_BESIDE = 16  # steps of running streams to one piece


class Recollections:
    """The state in which an answer was written is of no use to the next turn: its prompt has the answer's text in other tokens,
    without its thought, and is not computed token by token, which gives other last bits. Reading takes a tenth of the time of
    writing, and is done while nobody waits: with nothing else to compute, or every 16th step beside running streams.
    """

    def __init__(
        self, pool: StatePool, cache: PrefixCache[SavedState], recollection: Callable[[Sequence], Reading | None]
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._recollection = recollection
        self._waiting: deque[Sequence] = deque(maxlen=_MOST)
        self._reading: Reading | None = None
        self._slot: int | None = None
        self._steps = 0  # since the last piece

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self._reading is not None

    def add(self, ended: Sequence) -> None:
        if self._cache.keeps:
            self._waiting.append(ended)

    def next_piece(self, beside: list[Sequence]) -> Piece | None:
        """For a step in which these take part."""
        self._steps += 1
        if beside and (self._steps < _BESIDE or any(sequence.prefilling for sequence in beside)):
            return None
        if not self._begin() or self._reading is None or self._slot is None:
            return None
        self._steps = 0
        return Piece(self._slot, self._reading.next(), wants_logits=False)

    def keep(self) -> None:
        """After the step of such a piece."""
        if self._reading is not None and self._slot is not None:
            self._cache.note(self._reading, partial(self._pool.save, self._slot))
            if not self._reading.left:
                self.give_way()

    def give_way(self) -> None:
        """Somebody else needs the slot: what is being read is given up, but for what was kept of it."""
        if self._slot is not None:
            self._pool.give_back(self._slot)
        self._reading, self._slot = None, None

    def clear(self) -> None:
        self._waiting.clear()
        self.give_way()

    def _begin(self) -> bool:
        """Whether there is something to be read that nobody has read meanwhile."""
        while True:
            reading = self._reading
            if reading is not None and self._cache.has(reading.start, reading.pieces):
                self.give_way()
            elif reading is not None:
                return True
            if not self._waiting or not self._pool.free:
                return False
            self._take(self._waiting.popleft())

    def _take(self, ended: Sequence) -> None:
        reading = self._recollection(ended)
        if reading is None or not reading.pieces or self._cache.has(reading.start, reading.pieces):
            return
        state = self._cache.resume(reading) or ended.tuned
        if state is None and ended.initial_state:  # it was suspended, and what it began from stayed behind
            return
        self._reading, self._slot = reading, self._pool.take()
        if state is not None:
            self._pool.restore(self._slot, state)
