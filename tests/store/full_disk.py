"""A journal that runs into the end of its disk and goes on when there is room again; tells what happened as JSON."""

import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

from cortexd.errors import StoreFull
from cortexd.store.database import Database
from tests.store.stores import decided, started

ROOM = 192 << 10  # bytes


def limit(room: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


async def fill(means: str, directory: Path) -> None:
    ballast = directory / "ballast"
    if means == "tmpfs":
        ballast.write_bytes(bytes(ROOM))
    async with started(directory / "db") as journal:
        if means == "limit":
            limit(ROOM)
        noted, error = 0, None
        while error is None:
            noted += 1
            journal.note(decided(noted, reason="x" * 10_000))
            try:
                await journal.flush()
            except StoreFull as full:
                error = full
        journal.note(decided(noted + 1))
        if means == "limit":
            limit(resource.RLIM_INFINITY)
        else:
            ballast.unlink()
        await journal.flush()
        found = {row.id for row in await journal.query(limit=1000)}
        dropped = journal.dropped
    await Database(directory / "db").close()
    connection = sqlite3.connect(directory / "db")
    found &= {id for (id,) in connection.execute("SELECT id FROM journal")}
    sound = connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.close()
    told = {
        "error": type(error).__name__,
        "status": error.status,
        "dropped": dropped,
        "missing": sorted(set(range(1, noted + 2)) - found),
        "sound": sound,
    }
    print(json.dumps(told))


def main(means: str, directory: Path) -> None:
    if means == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * ROOM}", "tmpfs", directory], check=True)
    asyncio.run(fill(means, directory))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
