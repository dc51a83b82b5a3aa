"""Files that several processes share: each is whole or absent, and what must happen once happens once."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path


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
def turn(path: Path) -> Generator[None]:
    """One process at a time: who has waited for another finds what it made. Raises OSError."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
