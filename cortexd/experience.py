"""What the daemon learns, in memory and, where it has a database, beyond its life."""

import asyncio
import base64
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import StoreFailed, StoreInUse, UnknownVersion
from cortexd.events import Decided, Event, RequestEnded
from cortexd.lifecycle.history import History
from cortexd.lifecycle.prediction import Predictor
from cortexd.lifecycle.use import Use
from cortexd.rollouts import Proven
from cortexd.store.head_copy import HeadCopy
from cortexd.store.journal import JournalRow
from cortexd.store.measurements import Key
from cortexd.store.snapshot import Head
from cortexd.store.snapshots import Snapshots
from cortexd.store.states import States
from cortexd.store.store import Store

_log = logging.getLogger("cortexd")
_PREDICTOR = ""  # under which the predictor is remembered among the uses of models, none of which is called so


class Experience:
    """Journal, measurements, uses, predictions and residents. What cannot be written is told of by `health`, and raises nowhere."""

    def __init__(self, path: Path | None, bug: Callable[[BaseException], None]) -> None:
        """Raises StoreInUse. Without `path`, nothing is kept, nor where `failure` says why the database cannot be opened."""
        self.predictor = Predictor()
        self.residents: tuple[str, ...] = ()  # when the last daemon ended, the last used first
        self.proven: dict[str, Proven] = {}  # the last spec of each model that has loaded
        self.failure: StoreFailed | None = None
        self.copied_head: Head | None = (
            None  # where the database cannot be opened, the configuration that was in force in it
        )
        self._store = self._opened(path, bug) if path is not None else None
        self._noted: list[str] | None = None
        self._problem = self.failure.message if self.failure is not None else None
        self._proved: set[int] = set()
        self._proving: set[asyncio.Task[None]] = set()
        if self._store is not None and self._store.database.set_aside is not None:
            _log.warning("the database was damaged; it is now %s, and a new one begins", self._store.database.set_aside)

    def _opened(self, path: Path, bug: Callable[[BaseException], None]) -> Store | None:
        try:
            return Store(path, bug)
        except StoreInUse:
            raise
        except StoreFailed as failure:  # better to serve than not to
            self.failure = failure
            _log.error("nothing is kept: %s", failure.message)
        with contextlib.suppress(StoreFailed):
            self.copied_head = HeadCopy(path).read()
        return None

    async def start(self, history: History) -> None:
        """Recall what earlier daemons had learnt. To be awaited before anything is noted. Raises StoreFailed."""
        if self._store is None:
            return
        await self._store.start()
        if (notice := self._store.snapshots.notice) is not None:
            _log.warning("%s", notice)
        for (weights, strategy, device), quantities in (await self._store.measurements.load()).items():
            for what, seen in quantities.items():
                history.recall(weights, strategy, what, device, seen)
        uses = await self._store.measurements.recall()
        if (dump := uses.pop(_PREDICTOR, None)) is not None:
            self.predictor = Predictor.restored(base64.b64decode(msgspec.json.decode(dump, type=str)))
        history.remember_uses({name: msgspec.json.decode(use, type=Use) for name, use in uses.items()})
        self.residents = await self._store.residency.recall()
        for row in await self._store.proven.recall():
            with contextlib.suppress(msgspec.DecodeError):  # of a version of cortexd that wrote it otherwise
                self.proven[row.model] = Proven(msgspec.json.decode(row.spec, type=ModelSpec), row.version)

    @property
    def snapshots(self) -> Snapshots | None:
        """None where nothing is kept."""
        return self._store.snapshots if self._store is not None else None

    @property
    def states(self) -> States | None:
        """None where nothing is kept."""
        return self._store.states if self._store is not None else None

    def note_proven(self, name: str, proven: Proven | None) -> None:
        if self._store is not None and proven is None:
            self._store.proven.forget(name)
        elif self._store is not None and proven is not None:
            self._store.proven.note(name, proven.version, msgspec.json.encode(proven.spec).decode())

    def record(self, spec: ModelSpec, what: str, device: str, value: float) -> None:
        """Implements `cortexd.lifecycle.history.Recorder`."""
        if self._store is not None:
            self._store.measurements.record(Key(spec.weights or spec.name, spec.strategy, device), what, value)

    def note(self, event: Event) -> None:
        if self._store is None:
            return
        if isinstance(event, Decided):
            self._store.journal.note(event)
        elif isinstance(event, RequestEnded) and event.first_token_ms is not None:
            total, waited = event.total_ms / 1000, event.queue_ms / 1000
            self._store.usage.note(event.at - total, event.model, waited, total - waited)

    def prove(self, version: int) -> None:
        """This version of the configuration has worked: it is kept for good."""
        if self._store is not None and version not in self._proved:
            self._proved.add(version)
            task = asyncio.create_task(self._prove(self._store.snapshots, version), name=f"prove version {version}")
            self._proving.add(task)
            task.add_done_callback(self._proving.discard)

    async def _prove(self, snapshots: Snapshots, version: int) -> None:
        try:
            await snapshots.prove(version)
        except (StoreFailed, UnknownVersion):
            self._proved.discard(version)

    def note_residents(self, names: list[str]) -> None:
        if self._store is not None and names != self._noted:
            self._noted = names
            self._store.residency.note(names)

    def remember(self, history: History) -> None:
        """How models were used, which no event carries."""
        if self._store is None:
            return
        for name, use in history.uses().items():
            self._store.measurements.remember(name, msgspec.json.encode(use))
        dump = base64.b64encode(self.predictor.dump()).decode()
        self._store.measurements.remember(_PREDICTOR, msgspec.json.encode(dump))

    async def query(
        self,
        *,
        model: str | None = None,
        kinds: Sequence[str] | None = None,
        since: float | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> list[JournalRow]:
        """Decisions, newest first. Raises StoreFailed."""
        if self._store is None:
            return []
        return await self._store.journal.query(model, kinds, since, before_id, limit)

    async def check(self) -> None:
        """Find out whether the store still takes what is to be kept."""
        if self._store is None:
            return
        try:
            await self._store.check()
        except StoreFailed as error:
            if self._problem is None:
                _log.error("the store fails: %s", error.message)
            self._problem = error.message
        else:
            self._problem = None

    def health(self) -> str:
        """ "ok", or what is wrong."""
        return self._problem or "ok"

    async def close(self, history: History) -> None:
        """Raises StoreFailed where something is lost; closed all the same."""
        if self._store is None:
            return
        self.remember(history)
        await asyncio.gather(*self._proving)
        await self._store.close()
