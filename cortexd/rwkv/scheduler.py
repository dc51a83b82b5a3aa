"""Who takes part in the next step."""

from bisect import insort
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count

from cortexd.rwkv.batch import PIECE, Piece
from cortexd.rwkv.pace import Pace
from cortexd.rwkv.prefix_cache import PrefixCache
from cortexd.rwkv.reading import Reading
from cortexd.rwkv.sequence import Sequence
from cortexd.rwkv.sessions import Sessions
from cortexd.rwkv.state import SavedState, StatePool
from cortexd.session_files import SessionKey


class Scheduler:
    """Two queues: sequences that wait for a slot, and those that hold one. A sequence joins and leaves between any two steps.

    Who has the higher priority gets a slot first, then who came first; where none is free, a sequence of lower priority has its
    state set aside and waits again.
    """

    def __init__(
        self,
        pool: StatePool,
        prefill_budget: int,
        cache: PrefixCache[SavedState] | None = None,
        *,
        sessions: Sessions | None = None,
        target: float = 0.0,
        exact: bool = False,
    ) -> None:
        """What is meant by the last two, `Pace` says."""
        self.pace = Pace(target, prefill_budget, exact=exact)
        self._pool = pool
        self._cache = cache or PrefixCache()
        self._sessions = sessions
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._arrivals = count()
        self._shortest_first = True
        self._marked: list[tuple[Reading, int, SavedState]] = []  # within the step that is computed

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def reading(self) -> bool:
        """Whether a prompt that has a slot is not at its end."""
        return any(sequence.prefilling for sequence in self._running)

    def add(self, sequence: Sequence) -> None:
        sequence.arrival = next(self._arrivals)
        insort(self._waiting, sequence, key=_rank)

    def schedule(self) -> list[Sequence]:
        """Every decoding sequence, and as much of prompts as there is room for beside them."""
        while self._waiting and (self._pool.free or self._make_way(self._waiting[0].priority)):
            self._admit(self._waiting.pop(0))
        chosen = [sequence for sequence in self._running if not sequence.prefilling]
        prompts = self._prompts_in_turn()
        left = self.pace.room(len(chosen), self._length(prompts[0])) if prompts else 0
        self._shortest_first ^= left > 0
        for sequence in prompts:
            length = self._length(sequence)
            sequence.share = min(length, left) if self.pace.exact else length
            if 0 < sequence.share <= left:
                chosen.append(sequence)
                left -= sequence.share
        return chosen

    def pieces(self, chosen: Iterable[Sequence]) -> list[Piece]:
        """What each brings to the next step."""
        self._marked.clear()
        if not self.pace.exact:
            return [sequence.next_piece() for sequence in chosen]
        return [sequence.next_piece(partial(self._mark, sequence.reading)) for sequence in chosen]

    def keep(self, chosen: Iterable[Sequence]) -> None:
        """After a step, the states that are to be found again; of those that took part in it."""
        for reading, done, state in self._marked:
            self._cache.note(reading, lambda state=state: state, done)
        for sequence in chosen:
            if (slot := sequence.slot) is not None:
                self._cache.note(sequence.reading, partial(self._pool.save, slot))

    def finish(self, sequence: Sequence) -> None:
        """The only place where a sequence loses its slot."""
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

    def forget(self, session: SessionKey) -> None:
        """Its turns that are under way are of none from now on."""
        for sequence in self._all():
            if sequence.session == session:
                sequence.session = None

    def check_idle(self) -> None:
        """What must hold when nothing runs: every slot is free."""
        assert not self._running
        self._pool.check()
        assert self._pool.free == self._pool.slots, "a slot is held by nobody"

    def _admit(self, sequence: Sequence) -> None:
        sequence.slot = self._pool.take()
        begun = self._find(sequence) if sequence.reading.fresh else None
        if (state := begun or sequence.state) is not None:
            self._pool.restore(sequence.slot, state)
        sequence.state = None
        self._running.append(sequence)

    def _length(self, sequence: Sequence) -> int:
        """Most tokens of its prompt that one step takes: a piece, and where it may be cut anywhere as many of several."""
        return min(sequence.reading.length, PIECE) if self.pace.exact else sequence.next_length

    def _mark(self, reading: Reading, done: int) -> SavedState | None:
        if not self._cache.wants(reading, done):
            return None
        state = self._pool.blank()
        self._marked.append((reading, done, state))
        return state

    def _find(self, sequence: Sequence) -> SavedState | None:
        """The state after the longest beginning of its prompt that is known, behind which it goes on."""
        found = self._cache.resume(sequence.reading)
        if sequence.session is not None and self._sessions is not None:
            found = self._sessions.resume(sequence.session, sequence.reading) or found
        return found

    def _make_way(self, priority: int) -> bool:
        """Whether there is a slot now: of those of lower priority, who has come last gives up its own."""
        last = max(self._running, key=_rank, default=None)
        if last is None or last.slot is None or last.priority >= priority:
            return False
        last.state = self._pool.save(last.slot)
        self.finish(last)
        insort(self._waiting, last, key=_rank)
        return True

    def _prompts_in_turn(self) -> list[Sequence]:
        """In every other step that reads prompts the shortest goes first, so that it waits for no long one; in those between, who
        has come first, so that no long one waits for ever.
        """
        prompts = [sequence for sequence in self._running if sequence.prefilling]
        if self._shortest_first:
            return sorted(prompts, key=lambda sequence: (-sequence.priority, sequence.reading.length, sequence.arrival))
        return sorted(prompts, key=lambda sequence: sequence.arrival)

    def _all(self) -> Iterator[Sequence]:
        yield from tuple(self._running)
        yield from tuple(self._waiting)


def _rank(sequence: Sequence) -> tuple[int, int]:
    return -sequence.priority, sequence.arrival
