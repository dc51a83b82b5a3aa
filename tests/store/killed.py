"""Children that write a journal until they are killed, one after another; tells as JSON what they had flushed."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from cortexd.store.journal import Journal
from tests.store.stores import bug, decided, opened


async def write_for_ever(path: Path, tell: int) -> None:
    async with opened(path) as database:
        if database.set_aside is not None:
            os.write(tell, f"set aside {database.set_aside}\n".encode())
        journal = Journal(database, bug)
        await journal.start()
        while True:
            batch = [decided(number, reason="x" * 500) for number in range(20)]
            for one in batch:
                journal.note(one)
            await journal.flush()
            newest = (await journal.query(limit=1))[0]
            os.write(tell, f"{newest.id}\n".encode())


def killed_after(flushes: int, seconds: float, path: Path) -> list[str]:
    """The lines that a child has told when it is killed, `seconds` into what follows its `flushes`th flush."""
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        asyncio.run(write_for_ever(path, tell))
    os.close(tell)
    with os.fdopen(hear) as lines:
        told = [lines.readline() for _ in range(flushes)]
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        told += lines.readlines()
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return [line.rstrip() for line in told if line.endswith("\n")]


def main(path: Path, times: int) -> None:
    told = [line for n in range(times) for line in killed_after(1 + n % 4, n * 0.0007, path)]
    flushed = [int(line) for line in told if line.isdigit()]
    set_aside = [line for line in told if not line.isdigit()]
    print(json.dumps({"killed": times, "flushed": flushed, "set_aside": set_aside}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
