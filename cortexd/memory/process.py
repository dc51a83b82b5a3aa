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
    peak: dict[str, int]
    mapped: int = 0


class _Memory(msgspec.Struct, frozen=True):
    resident: int
    mapped: int
    peak: int


def measure(pids: Sequence[int], gpus: Gpus | None = None, root: Path = Path("/")) -> Usage:
    """What these processes hold together; one that has ended holds nothing. Walks page tables: call it from a thread.

    Pages shared among processes count for each in part, so that models which share weights do not count them twice. Peaks know
    no parts, and sum to more than was held where pages are shared; GPUs keep no peak, there it is what is held now.
    """
    found = [_memory(root / "proc" / str(pid)) for pid in pids]
    held = gpus.held(pids) if gpus else {}
    return Usage(
        {"cpu": sum(memory.resident for memory in found), **held},
        {"cpu": sum(memory.peak for memory in found), **held},
        sum(memory.mapped for memory in found),
    )


def _memory(process: Path) -> _Memory:
    try:
        resident, mapped = _proportional(process) or _resident(process)
        peak = sizes_in(process / "status").get("VmHWM", 0)
    except OSError:
        return _Memory(0, 0, 0)
    return _Memory(resident, mapped, max(peak, resident))


def _proportional(process: Path) -> tuple[int, int] | None:
    try:
        rollup = sizes_in(process / "smaps_rollup")
    except OSError:  # another user's, an older kernel, or just ended
        return None
    return rollup.get("Pss", 0), rollup.get("Pss_File", 0)


def _resident(process: Path) -> tuple[int, int]:
    return int((process / "statm").read_text().split()[1]) * PAGESIZE, sizes_in(process / "status").get("RssFile", 0)
