"""How much of each device our models may hold."""

import shutil
from pathlib import Path

from cortexd.config import Cache, Memory
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.sizes import bytes_of
from cortexd.wire import CacheLimits

# What `auto` stands for. The host also runs other things, and its page cache is what makes a second load fast; a GPU that computes
# models does little else, but its driver and libraries need room.
_AUTO = {"cpu": "75 %", "cuda": "90 %", "parked": "10 %"}

_AUTO_STATES, _MOST_STATES, _AUTO_DISK, _AUTO_SESSIONS = "1 %", 2**29, "2 GiB", "2 GiB"


def ceilings(memory: Memory, host: Host, gpus: Gpus) -> dict[str, int]:
    """Bytes by device, `cpu` and every `cuda:N`; never more than there is. Raises InvalidConfiguration, OSError."""
    return {"cpu": _part("cpu", memory.cpu, host.total())} | {
        device: _part("cuda", memory.cuda, room.total) for device, room in gpus.rooms().items()
    }


def parked_budget(memory: Memory, host: Host) -> int:
    """Bytes of the host that parked models may hold together; 0: none is parked. Raises InvalidConfiguration, OSError."""
    return _part("parked", memory.parked, host.total())


def cache_limits(cache: Cache, cpu: int, directory: Path | None) -> CacheLimits:
    """`cpu` is the ceiling of the host's memory, `directory` lies on the disk. Raises InvalidConfiguration, OSError."""
    auto = cache.host == "auto"
    host = bytes_of(_AUTO_STATES if auto else cache.host, cpu, key="cache.host")
    total = shutil.disk_usage(_existing(directory)).total if directory is not None else 0
    disk = bytes_of(_AUTO_DISK if cache.disk == "auto" else cache.disk, total, key="cache.disk")
    sessions = bytes_of(_AUTO_SESSIONS if cache.sessions == "auto" else cache.sessions, total, key="cache.sessions")
    return CacheLimits(
        host=min(host, _MOST_STATES if auto else cpu),
        disk=min(disk, total),
        sessions=min(sessions, total),
        enabled=cache.enabled,
    )


def foreign(total: int, available: int, ours: int, ceiling: int) -> int:
    """What other programs use of our ceiling: of what they use, that which does not fit beside it. All in bytes.

    `ours` is what our models hold and the kernel does not call available.
    """
    others = max(0, total - available - ours)
    return max(0, others - (total - ceiling))


def _part(key: str, written: str, total: int) -> int:
    return min(total, bytes_of(_AUTO[key] if written == "auto" else written, total, key=f"memory.{key}"))


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next(parent for parent in (path, *path.parents) if parent.exists())
