"""What processes hold of each device's memory."""

from collections.abc import Sequence
from mmap import PAGESIZE
from pathlib import Path

import msgspec

from cortexd.memory.fields import sizes_in
from cortexd.memory.nvidia import Gpus


class Usage(msgspec.Struct, frozen=True):
    """Bytes by device. `mapped` is the part of `resident["cpu"]` that is pages of files: the kernel calls those available."""

    resident: dict[str, int]
    mapped: int = 0


def measure(pids: Sequence[int], gpus: Gpus | None = None, root: Path = Path("/")) -> Usage:
    """What these processes hold together; one that has ended holds nothing. Walks page tables: call it from a thread.

    Pages shared among processes count for each in part, so that models which share weights do not count them twice.
    """
    found = [_memory(root / "proc" / str(pid)) for pid in pids]
    held = gpus.held(pids) if gpus else {}
    return Usage({"cpu": sum(resident for resident, _ in found), **held}, sum(mapped for _, mapped in found))


def _memory(process: Path) -> tuple[int, int]:
    """Bytes that are resident, and what of them is pages of files."""
    try:
        return _proportional(process) or _resident(process)
    except OSError:
        return 0, 0


def _proportional(process: Path) -> tuple[int, int] | None:
    try:
        rollup = sizes_in(process / "smaps_rollup")
    except OSError:  # another user's, an older kernel, or just ended
        return None
    return rollup.get("Pss", 0), rollup.get("Pss_File", 0)


def _resident(process: Path) -> tuple[int, int]:
    return int((process / "statm").read_text().split()[1]) * PAGESIZE, sizes_in(process / "status").get("RssFile", 0)
