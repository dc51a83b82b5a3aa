"""A copy of the head in a file of its own: what is left when the database is not."""

import hashlib
import threading
from pathlib import Path

import msgspec

from cortexd.errors import StoreFailed
from cortexd.store.failures import store_errors
from cortexd.store.replacement import replacement
from cortexd.store.snapshot import Head


class _Copy(msgspec.Struct, frozen=True):
    sha256: str  # of `head` as it stands here
    head: msgspec.Raw


class HeadCopy:
    """The file beside the database at `database`; safe to write from several threads, the newest head wins."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".head")
        self._newest: Head | None = None
        self._turn = threading.Lock()

    def read(self) -> Head | None:
        """What was written last; None where nothing was. Raises StoreFailed for a copy that is damaged."""
        with store_errors(self.path):
            try:
                content = self.path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            copy = msgspec.json.decode(content, type=_Copy)
            if hashlib.sha256(copy.head).hexdigest() == copy.sha256:
                return msgspec.json.decode(copy.head, type=Head)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        raise StoreFailed(f"The copy of the configuration in force, {self.path}, is damaged.")

    def note(self, head: Head) -> None:
        """`head` is what `write` writes from now on."""
        self._newest = head

    def write(self) -> None:
        """Write what was noted last; on the disk when this returns. Raises StoreFull or StoreFailed."""
        # A caller may have been cancelled and its thread be late: what it finds here is newer than what it came for.
        with self._turn, store_errors(self.path):
            content = msgspec.json.encode(self._newest)
            copy = _Copy(hashlib.sha256(content).hexdigest(), msgspec.Raw(content))
            with replacement(self.path) as new:
                new.write_bytes(msgspec.json.encode(copy))
