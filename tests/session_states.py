"""Sessions as workers leave them, without a worker."""

import contextlib
import os
from array import array
from collections.abc import AsyncGenerator
from pathlib import Path

from cortexd import session_files
from cortexd.engines.sessions import Sessions
from cortexd.session_files import SessionHead, SessionKey
from tests.api.serving import House, serving
from tests.fakes import FakeDaemon


def leave(root: Path, name: str, used_at: float = 1e9, tenant: str = "", identity: str = "weights") -> int:
    """A session of four tokens and two turns; its bytes on the disk."""
    key = SessionKey(tenant, name)
    pieces = [array("I", [1, 2, 3]).tobytes(), array("I", [4]).tobytes()]
    path = session_files.place_of(root, identity, key)
    session_files.write(path, SessionHead(key=key, model="goose", turns=2, start="", pieces=pieces), [memoryview(b"x")])
    os.utime(path, (used_at, used_at))
    return path.stat().st_size


@contextlib.asynccontextmanager
async def serving_sessions(root: Path) -> AsyncGenerator[House]:
    """A daemon of fakes whose sessions are real files in `root`."""
    daemon = FakeDaemon()
    daemon.sessions = Sessions(root, daemon.events.publish)
    async with serving(daemon) as house:
        yield house
