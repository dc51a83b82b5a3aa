"""The kernel's small text files. All of these raise OSError, and for what is not of their kind ValueError."""

from pathlib import Path


def sizes_in(file: Path) -> dict[str, int]:
    """Lines like `MemTotal:  24684096 kB`, in bytes; lines of another kind are left out."""
    words = [line.split() for line in file.read_text().splitlines()]
    return {w[0].rstrip(":"): int(w[1]) * 1024 for w in words if len(w) == 3 and w[2] == "kB"}


def counters_in(file: Path) -> dict[str, int]:
    """Lines like `oom_kill 3`."""
    words = [line.split() for line in file.read_text().splitlines()]
    return {w[0]: int(w[1]) for w in words if len(w) == 2}
