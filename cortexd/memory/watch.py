"""Looks at the memory every few seconds, and says what matters."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from cortexd.events import EventBus, MemoryWarning
from cortexd.memory.budget import foreign
from cortexd.memory.host import Host
from cortexd.memory.judge import Finding, Foreign, Judge, Relieve, Sample, Standing, Warn
from cortexd.memory.nvidia import Gpus
from cortexd.memory.pressure import Pressure
from cortexd.memory.room import Room

_log = logging.getLogger("cortexd.memory")

Tell = Callable[[str, int], None]


class MemoryWatch:
    """`run` is its one task. Callbacks are called in the loop; like listeners of the bus, they return at once and raise nothing."""

    def __init__(
        self,
        host: Host,
        gpus: Gpus,
        ceilings: Mapping[str, int],
        bus: EventBus,
        *,
        ours: Callable[[], Mapping[str, int]],
        on_foreign: Tell,
        on_pressure: Tell,
        mapped: Callable[[], int] = lambda: 0,
        sample_s: float = 2.0,
    ) -> None:
        """
        `ceilings`: bytes by device; read at every look, so that its owner may change it.
        `ours`: bytes by device that our models hold, those being loaded or ended included, else they pass for other programs'.
        `mapped`: what of `ours` on the CPU is pages of files (`Usage.mapped`), which the kernel counts as available.
        `on_foreign(device, bytes)`: what others use of a ceiling, at first 0, whenever it has changed by more than 1 % of that.
        `on_pressure(device, bytes)`: so much should be given back.
        """
        self._host, self._gpus, self._ceilings, self._bus = host, gpus, ceilings, bus
        self._ours, self._mapped = ours, mapped
        self._on_foreign, self._on_pressure = on_foreign, on_pressure
        self.sample_s = sample_s
        self._judge = Judge()
        self._unreadable = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self.sample_s)

    async def look(self) -> None:
        """Once; what cannot be read is told to the log, the first time of each row of failures."""
        try:
            rooms, pressure = await asyncio.to_thread(self._read)
        except Exception as error:  # whatever it is: without this watch models still come and go
            if not self._unreadable:
                _log.warning("the memory cannot be read: %r", error)
            self._unreadable = True
            return
        self._unreadable = False
        for finding in self._judge.judge(self._sample(rooms, pressure)):
            self._tell(finding)

    def _read(self) -> tuple[dict[str, Room], Pressure | None]:
        return {"cpu": self._host.room()} | self._gpus.rooms(), self._host.pressure()

    def _sample(self, rooms: Mapping[str, Room], pressure: Pressure | None) -> Sample:
        ours, mapped = self._ours(), {"cpu": self._mapped()}
        devices: dict[str, Standing] = {}
        for device, room in rooms.items():
            if device in self._ceilings:
                ceiling, held = self._ceilings[device], ours.get(device, 0)
                others = foreign(room.total, room.available, held - mapped.get(device, 0), ceiling)
                devices[device] = Standing(ceiling, held, others)
        return Sample(asyncio.get_running_loop().time(), devices, pressure)

    def _tell(self, finding: Finding) -> None:
        match finding:
            case Foreign(device, used):
                self._on_foreign(device, used)
            case Relieve(device, excess):
                self._on_pressure(device, excess)
            case Warn(device, used, ceiling, reason):
                self._bus.publish(
                    MemoryWarning(at=time.time(), device=device, used=used, ceiling=ceiling, reason=reason)
                )
