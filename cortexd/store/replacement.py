"""A file that takes another one's place: whole or not at all, also when the power is lost."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def replacement(path: Path) -> Generator[Path]:
    """An empty file beside `path`, mode 0600, to write to; takes the place of `path` at the end, unless the body raises."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)  # left by a process that was killed
    new.touch(mode=0o600)
    try:
        yield new
        sync(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the file or directory at `path` on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
