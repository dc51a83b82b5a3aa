"""Which bytes a checkpoint has, known without reading them."""

from pathlib import Path


def files_of(path: Path) -> list[Path]:
    """The checkpoint itself, and what is in it where it is a directory. Raises OSError."""
    return [path, *sorted(path.iterdir())] if path.is_dir() else [path]


def identity_of(path: Path) -> str:
    """Changes whenever a file of the checkpoint is replaced or written to. Raises OSError where there is none."""
    stats = [file.stat() for file in files_of(path)]
    return ";".join(f"{s.st_ino}:{s.st_size}:{s.st_mtime_ns}" for s in stats)
