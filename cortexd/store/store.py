"""All that is kept beyond the daemon's life, in one database."""

from collections.abc import Callable
from pathlib import Path

from cortexd.store.database import Database
from cortexd.store.journal import Journal
from cortexd.store.measurements import Measurements
from cortexd.store.proven import ProvenSpecs
from cortexd.store.residency import Residency
from cortexd.store.snapshots import Snapshots, Upgrade, no_upgrade
from cortexd.store.states import States
from cortexd.store.usage import Usage


class Store:
    """Opened by its constructor, which raises StoreFailed. `start` before anything is noted; `close` at the end.

    `schema_version` is that of today's configuration, `upgrade` makes it of an older one.
    """

    def __init__(
        self,
        path: Path,
        bug: Callable[[BaseException], None],
        schema_version: int = 1,
        upgrade: Upgrade = no_upgrade,
    ) -> None:
        self.database = Database(path)
        self.journal = Journal(self.database, bug)
        self.usage = Usage(self.database, bug)
        self.measurements = Measurements(self.database, bug)
        self.residency = Residency(self.database, bug)
        self.proven = ProvenSpecs(self.database, bug)
        self.snapshots = Snapshots(self.database, schema_version, upgrade)
        self.states = States(self.database)

    async def start(self) -> None:
        await self.journal.start()
        await self.usage.start()
        await self.snapshots.start()

    async def check(self) -> None:
        """Raises StoreFailed or StoreFull where a change would not be kept."""
        await self.database.check()

    async def close(self) -> None:
        """Writes what has not been written yet; raises where that is lost, and is closed all the same."""
        try:
            for kept in (self.journal, self.usage, self.measurements, self.residency, self.proven):
                await kept.close()
        finally:
            await self.database.close()
