"""What the daemon learns, in memory and, where it has a database, beyond its life."""

import base64
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import StoreFailed
from cortexd.events import Decided, Event, RequestEnded
from cortexd.lifecycle.history import History, Statistic
from cortexd.lifecycle.prediction import Predictor
from cortexd.lifecycle.use import Use
from cortexd.store.journal import JournalRow
from cortexd.store.measurements import Key
from cortexd.store.store import Store

_log = logging.getLogger("cortexd")
_PREDICTOR = ""  # under which the predictor is remembered among the uses of models, none of which is called so


class Experience:
    """Journal, measurements, uses, predictions and residents. What cannot be written is told of by `health`, and raises nowhere."""

    def __init__(self, path: Path | None, bug: Callable[[BaseException], None]) -> None:
        """Raises StoreFailed where there is a database that cannot be used. Without `path`, nothing is kept."""
        self.predictor = Predictor()
        self.residents: tuple[str, ...] = ()  # when the last daemon ended, the last used first
        self._store = Store(path, bug) if path is not None else None
        self._noted: list[str] | None = None
        self._problem: str | None = None
        if self._store is not None and self._store.database.set_aside is not None:
            _log.warning("the database was damaged; it is now %s, and a new one begins", self._store.database.set_aside)

    async def start(self, history: History) -> None:
        """Recall what earlier daemons had learnt. To be awaited before anything is noted. Raises StoreFailed."""
        if self._store is None:
            return
        await self._store.start()
        if (notice := self._store.snapshots.notice) is not None:
            _log.warning("%s", notice)
        for (weights, strategy, device), quantities in (await self._store.measurements.load()).items():
            for what, seen in quantities.items():
                history.recall(weights, strategy, what, device, Statistic(seen.count, seen.mean, seen.squares))
        uses = await self._store.measurements.recall()
        if (dump := uses.pop(_PREDICTOR, None)) is not None:
            self.predictor = Predictor.restored(base64.b64decode(msgspec.json.decode(dump, type=str)))
        history.remember_uses({name: msgspec.json.decode(use, type=Use) for name, use in uses.items()})
        self.residents = await self._store.residency.recall()

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
        await self._store.close()
