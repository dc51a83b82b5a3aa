"""The memory of this machine, and whether the models that may be asked for can ever have it."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from cortexd.catalogue.spec import ModelSpec
from cortexd.doctor.finding import Finding, missed, note, ok, warning
from cortexd.doctor.place import Place
from cortexd.events import Arithmetic
from cortexd.lifecycle.admission import Wish, never_fits
from cortexd.memory.control_group import own_groups
from cortexd.memory.fields import sizes_in
from cortexd.memory.host import Host
from cortexd.sizes import size

_LITTLE = 10**9  # bytes: the daemon, and one small model


def memory(place: Place) -> Iterator[Finding]:
    host = Host(place.root)
    room = host.room()
    says = f"{size(room.total)}, of which {size(room.available)} are available{_limited(place, room.total)}."
    if room.available < _LITTLE:
        yield warning("memory", says, "End what else holds memory: little more than the demo model can be loaded.")
    else:
        yield ok("memory", says)
    yield swap(place)
    if kills := host.oom_kills():
        yield note(
            "killed for memory",
            f"The kernel has killed {kills} process{'es' if kills > 1 else ''} for want of memory since it counts.",
            "Look with `journalctl -k -g oom`; if it were workers of cortexd, lower [memory] cpu.",
        )


def swap(place: Place) -> Finding:
    found = sizes_in(place.root / "proc/meminfo")
    total, free = found.get("SwapTotal", 0), found.get("SwapFree", 0)
    if not total:
        return ok("swap", "There is no swap.")
    says = f"{size(total)}, of which {size(total - free)} are in use."
    if total - free > total // 2:
        return warning("swap", says, "A model in swap is slower than one that is loaded again: lower [memory] cpu.")
    return ok("swap", says)


def budget(
    specs: Sequence[ModelSpec], ceilings: Mapping[str, int], expected: Callable[[ModelSpec], Mapping[str, int]]
) -> Iterator[Finding]:
    """`ceilings` are bytes by device, and `expected` those that a load of a model will need."""
    shown = ", ".join(f"{size(ceiling)} on {device}" for device, ceiling in ceilings.items())
    memory = {
        device: Arithmetic(ceiling=ceiling, resident=0, reserved=0, debt=0) for device, ceiling in ceilings.items()
    }
    yield ok("memory budget", f"Models may hold {shown}.")
    for spec in specs:
        if spec.problem is not None:
            continue
        wish = Wish(key=spec.hash, name=spec.name, needed=dict(expected(spec)))
        if (never := never_fits(wish, memory, ())) is not None:
            yield missed(spec)(
                "memory budget",
                f"{never.reason}: it can never be loaded.",
                "Raise [memory], or give the model fewer max_concurrency or a strategy of fewer bits, such as 'cpu int8'.",
            )


def _limited(place: Place, total: int) -> str:
    """By which control group, where it is one that says how much there is."""
    for group in own_groups(place.root):
        if (room := group.room()) is not None and room.total == total:
            return f"; that is the limit of the control group {group.directory}"
    return ""
