"""What sessions have been left with: their next turn begins there, in whichever worker of the same model, and whenever."""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cortexd import session_files
from cortexd.rwkv.reading import Reading
from cortexd.rwkv.state import SavedState
from cortexd.session_files import SessionHead, SessionKey
from cortexd.wire import SessionKept

_MOST_WAITING = 256 * 2**20  # bytes of states in memory that wait for the disk


class Sessions:
    """Below `root`, of the model `model` with the weights and the arithmetic of `identity`: of another's states none is read.

    They are written in the background, and `tell` is called from there; whoever removes them is somebody else.
    """

    def __init__(
        self,
        root: Path,
        identity: str,
        model: str,
        unpack: Callable[[bytes], SavedState],
        tell: Callable[[SessionKept], None],
    ) -> None:
        """`unpack` raises ValueError for what is no state of this model."""
        self.on = False
        self._root = root
        self._identity = identity
        self._model = model
        self._unpack = unpack
        self._tell = tell
        self._waiting = 0  # bytes
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sessions", daemon=True)
        self._thread.start()

    def resume(self, key: SessionKey, reading: Reading) -> SavedState | None:
        """The state in which the session was left, where that is further than what was found of `reading`, which goes on there."""
        if not self.on:
            return None
        path = session_files.place_of(self._root, self._identity, key)
        with suppress(OSError, ValueError):
            head = session_files.read_head(path)
            count = len(head.pieces)
            # Never all of it: the last piece gives the first token.
            if head.start == reading.start and reading.done < count and head.pieces == reading.pieces[:-1][:count]:
                state = self._unpack(session_files.read_state(path))
                reading.skip(count)
                return state
        return None

    def keep(self, key: SessionKey, reading: Reading, state: SavedState) -> None:
        """All of `reading` is what the next turn begins with, as far as anybody knows. Returns at once."""
        if not self.on:
            return
        with self._lock:
            slow = self._waiting and self._waiting + state.nbytes > _MOST_WAITING
            if not slow:
                self._waiting += state.nbytes
        if slow:
            self.lose(key, "the disk is too slow")
            return
        start, pieces = reading.start, list(reading.pieces)
        self._jobs.put(lambda: self._write(key, start, pieces, state))

    def lose(self, key: SessionKey, problem: str) -> None:
        """Its last turn cannot be kept, and the one before stays: whoever asks should know why."""
        if self.on:
            self._report(key, problem)

    def forget(self, key: SessionKey) -> None:
        """Somebody has removed it: what waits to be written of it, or is being written, does not bring it back."""
        if self._thread.is_alive():
            self._jobs.put(lambda: self._remove(key))
        else:
            self._remove(key)

    def close(self) -> None:
        """Returns when what is to be written is written."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _write(self, key: SessionKey, start: str, pieces: list[bytes], state: SavedState) -> None:
        path = session_files.place_of(self._root, self._identity, key)
        turns, problem = 1, ""
        with suppress(OSError, ValueError):
            turns += session_files.read_head(path).turns
        head = SessionHead(key=key, model=self._model, turns=turns, start=start, pieces=pieces)
        try:
            session_files.write(path, head, state.parts())
        except OSError as error:
            problem = error.strerror or "it cannot be written"
        with self._lock:
            self._waiting -= state.nbytes
        self._report(key, problem)

    def _remove(self, key: SessionKey) -> None:
        with suppress(OSError):
            session_files.remove([session_files.place_of(self._root, self._identity, key)])

    def _report(self, key: SessionKey, problem: str) -> None:
        with suppress(OSError):  # the daemon has gone
            self._tell(SessionKept(key.tenant, key.name, problem))
