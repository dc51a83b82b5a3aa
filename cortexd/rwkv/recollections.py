"""Answers that have ended, read once more as the next turn will tell them: then that has to read nothing but the new message."""

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial
from typing import Any

from cortexd.errors import BadRequest
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.prefix_cache import PrefixCache
from cortexd.rwkv.reading import Reading
from cortexd.rwkv.sequence import Sequence
from cortexd.rwkv.sessions import Sessions
from cortexd.rwkv.state import SavedState, StatePool
from cortexd.session_files import SessionKey
from cortexd.wire import InitialState

_MOST = 32  # answers that wait to be read; the oldest are given up
_MOST_OWED = 256  # the same of sessions
_BESIDE = 16  # steps of running streams to one piece
_ALONE = 32  # tokens, where a request that comes meanwhile has to wait for them


class Recollections:
    """The state in which an answer was written is of no use to the next turn: its prompt has the answer's text in other tokens,
    without its thought, and is not computed token by token, which gives other last bits. Reading takes a tenth of the time of
    writing, and is done while nobody waits: with nothing else to compute, or every 16th step beside running streams.

    What is owed to a session comes first, one at a time, and gives way to nobody: it begins in the slot that its answer has left.
    """

    def __init__(
        self,
        pool: StatePool,
        cache: PrefixCache[SavedState],
        recollection: Callable[[Sequence], Reading | None],
        tuned: Callable[[InitialState], SavedState],
        sessions: Sessions | None = None,
        *,
        exact: bool = False,
    ) -> None:
        """`tuned` raises BadRequest where there is no such state any more; `exact` as `Pace` has it."""
        self._pool = pool
        self._cache = cache
        self._recollection = recollection
        self._tuned = tuned
        self._sessions = sessions
        self._exact = exact
        self._waiting: deque[Sequence] = deque(maxlen=_MOST)
        self._owed: deque[Sequence] = deque()
        self._reading: Reading | None = None
        self._session: SessionKey | None = None  # to which it is owed
        self._slot: int | None = None
        self._steps = 0  # since the last piece

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._owed) or self._reading is not None

    @property
    def urgent(self) -> bool:
        """Whether something is owed to a session."""
        return bool(self._owed) or self._session is not None

    def add(self, ended: Sequence) -> None:
        """After it has left its slot."""
        if ended.session is not None and self._sessions is not None and self._sessions.on:
            earlier = [other for other in self._owed if other.session == ended.session]
            for other in earlier:
                self._owed.remove(other)
            self._owed.append(ended)
            if len(self._owed) > _MOST_OWED:
                self._lose(self._owed.popleft(), "too many turns have ended at once")
            self.give_way()
            self._begin()
        elif self._cache.keeps:
            self._waiting.append(ended)

    def next_piece(
        self,
        beside: list[Sequence],
        room: Callable[[int, int], int],
        *,
        prompts: bool = False,
        waited_for: bool = False,
    ) -> Piece | None:
        """For a step in which these take part; `room` is that of `Pace`.

        While `prompts` are read, only what is owed to a session is; when its slot is `waited_for`, in every step.
        """
        self._steps += 1
        if beside and self._steps < _BESIDE and not (waited_for and self._session is not None):
            return None
        if not self._begin() or self._reading is None or self._slot is None:
            return None
        if self._session is None and prompts:
            return None
        if not (most := room(len(beside), self._reading.next_length)):
            return None
        if self._exact and not beside:
            most = min(most, _ALONE)
        self._steps = 0
        return Piece(self._slot, self._reading.next(most), wants_logits=False)

    def keep(self) -> None:
        """After the step of such a piece."""
        if self._reading is None or self._slot is None:
            return
        save = partial(self._pool.save, self._slot)
        self._cache.note(self._reading, save)
        if not self._reading.left:
            if self._session is not None and self._sessions is not None:
                self._sessions.keep(self._session, self._reading, save())
            self._release()
            if self._owed:
                self._begin()

    def give_way(self) -> None:
        """Somebody else needs the slot: what is being read is given up, but for what was kept of it."""
        if self._session is None:
            self._release()

    def settle(self, run: Callable[[Items[Piece]], Any]) -> None:
        """Read now what is owed to sessions, where there are slots for it; the rest is given up."""
        self.clear_unowed()
        while self._begin() and self._reading is not None and self._slot is not None:
            run([Piece(self._slot, self._reading.next(), wants_logits=False)])
            self.keep()
        for ended in self._owed:
            self._lose(ended, "its worker ended while others computed")
        self.clear()

    def forget(self, session: SessionKey) -> None:
        """Nothing is owed to it any more."""
        for ended in [ended for ended in self._owed if ended.session == session]:
            self._owed.remove(ended)
        if self._session == session:
            self._release()

    def clear_unowed(self) -> None:
        """All but what is owed to sessions."""
        self._waiting.clear()
        self.give_way()

    def clear(self) -> None:
        self._waiting.clear()
        self._owed.clear()
        self._release()

    def _release(self) -> None:
        if self._slot is not None:
            self._pool.give_back(self._slot)
        self._reading = self._session = self._slot = None

    def _begin(self) -> bool:
        """Whether there is something to be read that nobody has read meanwhile."""
        while True:
            reading = self._reading
            if reading is not None and self._session is None and self._cache.has(reading.start, reading.pieces):
                self._release()
            elif reading is not None:
                return True
            queue = self._owed or self._waiting
            if not queue or not self._pool.free:
                return False
            self._take(queue.popleft(), owed=queue is self._owed)

    def _take(self, ended: Sequence, *, owed: bool) -> None:
        reading = self._recollection(ended)
        if reading is None or not reading.pieces or (not owed and self._cache.has(reading.start, reading.pieces)):
            return
        state = self._cache.resume(reading)
        if owed and ended.session is not None and self._sessions is not None:
            state = self._sessions.resume(ended.session, reading) or state
        if state is None and ended.initial_state is not None:
            try:
                state = self._tuned(ended.initial_state)
            except BadRequest:  # somebody has removed it since the turn began
                self._lose(ended, "the state that it began from cannot be read any more")
                return
        self._reading, self._session, self._slot = reading, ended.session if owed else None, self._pool.take()
        if state is not None:
            self._pool.restore(self._slot, state)

    def _lose(self, ended: Sequence, problem: str) -> None:
        if ended.session is not None and self._sessions is not None:
            self._sessions.lose(ended.session, problem)
