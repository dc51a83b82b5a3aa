"""Control groups: what a service manager or a container lets this process have. Both versions of them."""

from pathlib import Path, PurePosixPath

import msgspec

from cortexd.memory.fields import counters_in
from cortexd.memory.pressure import Pressure, pressure_in
from cortexd.memory.room import Room


class _Names(msgspec.Struct, frozen=True):
    limits: tuple[str, ...]
    used: str
    cache: tuple[str, ...]  # of memory.stat
    events: str


_V1 = _Names(
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
    "memory.oom_control",
)
# Above `high` nobody is killed, but every allocation waits: no place for a model.
_V2 = _Names(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"), "memory.events")


class ControlGroup(msgspec.Struct, frozen=True):
    """One directory of the hierarchy that rules memory."""

    directory: Path
    names: _Names

    def room(self) -> Room | None:
        """What it may hold, and how much of that is left; the page cache counts as free, for at the limit it is dropped.

        None where it sets no limit.
        """
        written = [self._text(name) for name in self.names.limits]
        limit = min((int(text) for text in written if text.isdigit()), default=None)
        used = self._text(self.names.used)
        if limit is None or not used:
            return None
        held = counters_in(self.directory / "memory.stat")
        kept = int(used) - sum(held.get(name, 0) for name in self.names.cache)
        return Room(limit, max(0, limit - max(0, kept)))

    def oom_kills(self) -> int | None:
        try:
            return counters_in(self.directory / self.names.events).get("oom_kill")
        except OSError:
            return None

    def pressure(self) -> Pressure | None:
        return pressure_in(self.directory / "memory.pressure")

    def _text(self, name: str) -> str:
        try:
            return (self.directory / name).read_text().strip()
        except OSError:  # the topmost group has no limit, and a group without the controller has no such files
            return ""


def own_groups(root: Path) -> list[ControlGroup]:
    """The group that this process is in and all above it, own first; empty where there are none."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in memberships)}
    places = [_mount(line) for line in mounts if " - cgroup" in line]
    for controllers, path in paths.items():  # where version 1 has the controller, version 2 knows nothing of memory
        if "memory" in controllers.split(","):
            for kind, options, top, point in places:
                if kind == "cgroup" and "memory" in options:
                    return [ControlGroup(d, _V1) for d in _upwards(root, point, top, path)]
    for kind, _, top, point in places:
        if kind == "cgroup2" and "" in paths:
            return [ControlGroup(d, _V2) for d in _upwards(root, point, top, paths[""])]
    return []


def _mount(line: str) -> tuple[str, list[str], str, str]:
    """Type, options, the group that is mounted, and where; the format is in proc_pid_mountinfo(5)."""
    before, _, after = line.partition(" - ")
    kind, _, options = after.split(" ", 2)
    _, _, _, top, point, *_ = before.split()
    return kind, options.split(","), top, point


def _upwards(root: Path, point: str, top: str, path: str) -> list[Path]:
    try:
        parts = PurePosixPath(path).relative_to(top).parts
    except ValueError:  # a container that sees its own group mounted, and its path as the host sees it
        parts = ()
    if ".." in parts:
        parts = ()
    mounted = root / point.lstrip("/")
    return [mounted.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
