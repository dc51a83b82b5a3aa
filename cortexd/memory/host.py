"""The memory of this machine, as far as this process may use it."""

from pathlib import Path

from cortexd.memory.control_group import own_groups
from cortexd.memory.fields import counters_in, sizes_in
from cortexd.memory.pressure import Pressure, pressure_in
from cortexd.memory.room import Room


class Host:
    """Reads Linux's /proc and /sys below `root`. Every call reads anew, since limits change while programs run."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._groups = own_groups(root)

    def total(self) -> int:
        """Bytes: the machine's, or the smallest limit of a control group on the way up. Raises OSError."""
        return self.room().total

    def available(self) -> int:
        """Bytes that can be had without swapping and without reaching a limit. Raises OSError."""
        return self.room().available

    def room(self) -> Room:
        """Total and available of one moment. Raises OSError."""
        memory = sizes_in(self._proc / "meminfo")
        rooms = [Room(memory["MemTotal"], memory["MemAvailable"])]
        rooms += [room for group in self._groups if (room := group.room()) is not None]
        return Room(min(room.total for room in rooms), min(room.available for room in rooms))

    def pressure(self) -> Pressure | None:
        """The worse of the machine's and our own group's; None where the kernel does not measure it."""
        everyone = pressure_in(self._proc / "pressure/memory")
        ours = next((p for group in self._groups if (p := group.pressure()) is not None), None)
        if everyone is None or ours is None:
            return everyone or ours
        return Pressure(max(everyone.some, ours.some), max(everyone.full, ours.full))

    def oom_kills(self) -> int:
        """How many processes have been killed for want of memory: of our group if it is counted there, else of the machine."""
        for group in self._groups:
            if (kills := group.oom_kills()) is not None:
                return kills
        try:
            return counters_in(self._proc / "vmstat").get("oom_kill", 0)
        except OSError:
            return 0
