"""`/admin/backup`: the whole database as one file, made while it is in use."""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from cortexd.api.departure import while_there
from cortexd.api.event_stream import raw_headers
from cortexd.api.terms import query_of
from cortexd.daemon import Daemon
from cortexd.store.failures import store_errors
from cortexd.store.snapshots import Snapshots

_PIECE = 2**18  # bytes


class BackupEndpoint:
    """ASGI endpoint. The copy has no name any more while it is sent, so that nothing of it is left, whatever happens."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query_of(Request(scope, receive))
        with await _copy(self._daemon.configuration.snapshots) as copy:
            await while_there(receive, _sent(copy, send))


async def _copy(snapshots: Snapshots) -> BinaryIO:
    """A backup, open for reading. Raises StoreFull or StoreFailed."""
    making = asyncio.create_task(_made(snapshots), name="make a backup")
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        # SQLite writes into it in a thread: it is done with first.
        await asyncio.wait({making})
        if not making.cancelled() and making.exception() is None:
            making.result().close()
        raise


async def _made(snapshots: Snapshots) -> BinaryIO:
    directory = snapshots.directory
    with store_errors(directory), tempfile.TemporaryDirectory(dir=directory, prefix="backup-") as place:
        target = Path(place) / "cortexd.db"
        await snapshots.backup(target)
        return target.open("rb")


async def _sent(copy: BinaryIO, send: Send) -> None:
    headers = {
        "content-type": "application/vnd.sqlite3",
        "content-length": str(os.fstat(copy.fileno()).st_size),
        "content-disposition": 'attachment; filename="cortexd.db"',
    }
    await send({"type": "http.response.start", "status": 200, "headers": raw_headers(headers)})
    while piece := await asyncio.to_thread(copy.read, _PIECE):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
