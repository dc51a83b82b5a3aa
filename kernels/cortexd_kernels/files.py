"""Files that several processes share: each is whole or absent, and what must happen once happens once."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

_WAIT = 0.1  # seconds between two looks whether another process is done


def write_whole(path: Path, data: bytes) -> None:
    """Makes `path`, with its folders, readable by its owner; raises OSError. Whoever reads finds the old or the new."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def turn(path: Path, waiting: Callable[[], None] = lambda: None) -> Generator[None]:
    """One process at a time: who has waited for another, which is told again and again, finds what it made. Raises OSError."""
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(_WAIT)
        yield
