"""How much of each device our models may hold."""

from cortexd.config import Memory
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.sizes import bytes_of

# What `auto` stands for. The host also runs other things, and its page cache is what makes a second load fast; a GPU that computes
# models does little else, but its driver and libraries need room.
_AUTO = {"cpu": "75 %", "cuda": "90 %", "parked": "10 %"}


def ceilings(memory: Memory, host: Host, gpus: Gpus) -> dict[str, int]:
    """Bytes by device, `cpu` and every `cuda:N`; never more than there is. Raises InvalidConfiguration, OSError."""
    return {"cpu": _part("cpu", memory.cpu, host.total())} | {
        device: _part("cuda", memory.cuda, room.total) for device, room in gpus.rooms().items()
    }


def parked_budget(memory: Memory, host: Host) -> int:
    """Bytes of the host that parked models may hold together; 0: none is parked. Raises InvalidConfiguration, OSError."""
    return _part("parked", memory.parked, host.total())


def foreign(total: int, available: int, ours: int, ceiling: int) -> int:
    """What other programs use of our ceiling: of what they use, that which does not fit beside it. All in bytes.

    `ours` is what our models hold and the kernel does not call available.
    """
    others = max(0, total - available - ours)
    return max(0, others - (total - ceiling))


def _part(key: str, written: str, total: int) -> int:
    return min(total, bytes_of(_AUTO[key] if written == "auto" else written, total, key=f"memory.{key}"))
