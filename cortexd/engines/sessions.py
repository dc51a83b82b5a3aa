"""Sessions that engines keep: how much room they have on the disk, what there are, and the end of those that nobody uses."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from time import time

import msgspec

from cortexd import session_files
from cortexd.engines.audience import Audience
from cortexd.errors import UnknownSession
from cortexd.events import Event, SessionLost
from cortexd.session_files import SessionFile, SessionHead
from cortexd.wire import ForgetSession


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a session was left with, by one model."""

    session: str
    tenant: str  # whose it is
    model: str
    turns: int
    tokens: int  # that its state stands for
    bytes: int  # on the disk
    used_at: float  # seconds since the epoch


class Sessions(Audience[ForgetSession]):
    """`directory` is where they outlive engine and daemon; None: nowhere. Engines that run are told of those that are removed."""

    def __init__(self, directory: Path | None, publish: Callable[[Event], None]) -> None:
        super().__init__()
        self.directory = directory
        self._publish = publish
        self._limit = 0
        self._fitting: asyncio.Task[None] | None = None
        self._again = False

    async def all(self) -> list[Session]:
        """Those used last come first."""
        files = await asyncio.to_thread(self._found)
        return [
            Session(
                session=file.head.key.name,
                tenant=file.head.key.tenant,
                model=file.head.model,
                turns=file.head.turns,
                tokens=file.head.tokens,
                bytes=file.bytes,
                used_at=file.used_at,
            )
            for file in reversed(files)
        ]

    async def remove(self, name: str, tenant: str) -> int:
        """With every model, and what engines were about to keep of it; how many there were. Raises UnknownSession where there was
        none.
        """
        removed = await asyncio.to_thread(self._remove, name, tenant)
        self._tell(ForgetSession(tenant, name))  # after that, so that what they have just kept is seen and goes too
        if not removed:
            raise UnknownSession(f"There is no session {name}.")
        return removed

    def change(self, limit: int) -> None:
        """Bytes that all together may take; 0: none is kept."""
        if limit != self._limit:
            self._limit = limit
            self.fit()

    def fit(self) -> None:
        """One was kept: those go that are beyond the limit, off the loop; returns at once."""
        self._again = True
        if self._fitting is None:
            self._fitting = asyncio.create_task(self._fit_all(), name="make room for sessions")

    def failed(self, tenant: str, name: str, model: str, problem: str) -> None:
        """What it has been left with could not be kept; what is there is of an earlier turn, or nothing."""
        self._lost(tenant, name, model, f"its last turn cannot be kept: {problem}")

    async def close(self) -> None:
        if self._fitting is not None:
            await self._fitting

    async def _fit_all(self) -> None:
        try:
            while self._again:
                self._again = False
                for head in await asyncio.to_thread(self._fit):
                    reason = "sessions have no more room: it was unused for longest"
                    self._lost(head.key.tenant, head.key.name, head.model, reason)
        finally:
            self._fitting = None

    def _fit(self) -> list[SessionHead]:
        """Removes what was unused for longest, until the rest has room. Reads nothing of what stays: it runs after every turn."""
        if self.directory is None:
            return []
        with contextlib.suppress(OSError):
            session_files.sweep(self.directory)
        places = sorted(session_files.places(self.directory), key=lambda place: (place.used_at, place.path))
        held = sum(place.bytes for place in places)
        gone: list[SessionHead] = []
        for place in places:
            if held <= self._limit:
                break
            with contextlib.suppress(OSError):
                head = _head_of(place.path)
                place.path.unlink(missing_ok=True)
                held -= place.bytes
                gone += [head] if head is not None else []
        return gone

    def _remove(self, name: str, tenant: str) -> int:
        paths = [file.path for file in self._found() if (file.head.key.name, file.head.key.tenant) == (name, tenant)]
        session_files.remove(paths)
        return len(paths)

    def _found(self) -> list[SessionFile]:
        """The one that was unused for longest first."""
        if self.directory is None:
            return []
        return sorted(session_files.found(self.directory), key=lambda file: (file.used_at, file.path))

    def _lost(self, tenant: str, name: str, model: str, reason: str) -> None:
        self._publish(SessionLost(at=time(), session=name, tenant=tenant, model=model, reason=reason))


def _head_of(path: Path) -> SessionHead | None:
    """None where it is damaged: nobody misses that."""
    try:
        return session_files.read_head(path)
    except (OSError, ValueError):
        return None
