"""A database in which nothing is yet, made by the migrations once in a process."""

import functools
import tempfile
from pathlib import Path

from cortexd.store.migrate import migrate


@functools.cache
def new_database() -> bytes:
    """The content of its file."""
    with tempfile.TemporaryDirectory(prefix="cortexd-") as folder:
        path = Path(folder) / "new.db"
        migrate(path)
        return path.read_bytes()
