"""The snapshots against a model in plain Python, through every order of operations that hypothesis thinks of."""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cortexd.errors import StaleVersion
from cortexd.store.database import Database
from cortexd.store.snapshots import Snapshots
from tests.store.histories import Clock, put

KEEP = 4
Result = TypeVar("Result")
VALUES = strategies.integers(min_value=0, max_value=3)
WITHIN = strategies.none() | strategies.just(60.0)


@dataclass
class Kept:
    value: int
    restored_from: int | None = None
    pinned: bool = False
    proven: bool = False


@dataclass
class Model:
    versions: dict[int, Kept] = field(default_factory=dict[int, Kept])
    current: int = 0
    confirmed: int = 0
    deadline: float | None = None

    def put(self, value: int, now: float, within: float | None = None, restored_from: int | None = None) -> None:
        if self.current and self.versions[self.current].value == value:
            return
        before, self.current = self.current, self.current + 1
        self.versions[self.current] = Kept(value, restored_from)
        if before and within is not None:
            self.deadline = now + within
        if not before or self.deadline is None or self.versions[self.confirmed].value == value:
            self.confirm()
        self.forget()

    def confirm(self) -> None:
        self.confirmed, self.deadline = self.current, None

    def revert(self, now: float) -> None:
        if self.deadline is not None and self.deadline <= now:
            self.put(self.versions[self.confirmed].value, now, restored_from=self.confirmed)

    def forget(self) -> None:
        for version, kept in list(self.versions.items()):
            if version <= self.current - KEEP and version != self.confirmed and not kept.pinned and not kept.proven:
                del self.versions[version]


class SnapshotMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="cortexd-machine-")
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.model = Model()
        self.files = 0
        self.database: Database | None = None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    @property
    def path(self) -> Path:
        return Path(self.folder.name) / f"db{self.files}"

    @initialize()
    def open(self) -> None:
        self.database = Database(self.path)
        self.snapshots = Snapshots(self.database, keep=KEEP, clock=self.clock)
        self.run(self.snapshots.start())

    def close(self) -> None:
        if self.database is not None:
            self.run(self.database.close())

    def teardown(self) -> None:
        self.close()
        self.runner.close()
        self.folder.cleanup()

    @rule(value=VALUES, within=WITHIN, compared=strategies.booleans())
    def put(self, value: int, within: float | None, compared: bool) -> None:
        expected = self.model.current if compared else None
        self.run(put(self.snapshots, value, expected, confirm_within=within))
        self.model.put(value, self.clock.now, within)

    @rule(value=VALUES, known=strategies.integers(min_value=0, max_value=30))
    def put_late(self, value: int, known: int) -> None:
        head = self.model.versions.get(self.model.current)
        if known == self.model.current or (head is not None and head.value == value):
            return
        with pytest.raises(StaleVersion) as stale:
            self.run(put(self.snapshots, value, known))
        known_value = self.model.versions[known].value if known in self.model.versions else None
        differs = head is not None and known_value is not None and known_value != head.value
        assert (stale.value.current, stale.value.changed) == (self.model.current, ("value",) if differs else ())

    @precondition(lambda self: self.model.current)
    @rule(data=strategies.data(), within=WITHIN)
    def roll_back(self, data: strategies.DataObject, within: float | None) -> None:
        version = data.draw(strategies.sampled_from(sorted(self.model.versions)))
        expected = self.model.current
        self.run(self.snapshots.rollback(version, "ann", "", expected=expected, confirm_within=within))
        self.model.put(self.model.versions[version].value, self.clock.now, within, restored_from=version)

    @precondition(lambda self: self.model.current)
    @rule()
    def confirm(self) -> None:
        self.run(self.snapshots.confirm(self.model.current))
        self.model.confirm()

    @rule(seconds=strategies.sampled_from([1.0, 59.0, 60.0]))
    def wait_and_revert(self, seconds: float) -> None:
        self.clock.now += seconds
        self.run(self.snapshots.revert(self.clock.now))
        self.model.revert(self.clock.now)

    @precondition(lambda self: self.model.current)
    @rule(data=strategies.data(), pinned=strategies.booleans())
    def pin(self, data: strategies.DataObject, pinned: bool) -> None:
        version = data.draw(strategies.sampled_from(sorted(self.model.versions)))
        self.run(self.snapshots.pin(version, pinned))
        self.model.versions[version].pinned = pinned

    @precondition(lambda self: self.model.current)
    @rule()
    def prove(self) -> None:
        self.run(self.snapshots.prove(self.model.current))
        self.model.versions[self.model.current].proven = True

    @rule()
    def reopen(self) -> None:
        self.close()
        self.open()
        assert self.snapshots.notice is None

    @precondition(lambda self: self.model.current)
    @rule()
    def move_by_bundle(self) -> None:
        bundle = self.run(self.snapshots.export())
        self.close()
        self.files += 1
        self.open()
        self.run(self.snapshots.import_bundle(bundle, "ann", "moved", expected=0))
        self.model.confirm()

    @precondition(lambda self: self.model.current)
    @rule(value=VALUES)
    def import_on_top(self, value: int) -> None:
        bundle = self.run(self.snapshots.export())
        self.run(put(self.snapshots, value))
        self.run(self.snapshots.import_bundle(bundle, "ann", "back", expected=None))
        exported = self.model.versions[self.model.current].value
        self.model.put(value, self.clock.now)
        self.model.put(exported, self.clock.now)

    @precondition(lambda self: self.model.current)
    @rule()
    def lose_the_database(self) -> None:
        self.close()
        self.path.unlink()
        self.open()
        assert "no version" in (self.snapshots.notice or "")
        left = {self.model.confirmed, self.model.current}
        self.model.versions = {version: self.model.versions[version] for version in left}

    @invariant()
    def is_as_the_model_says(self) -> None:
        if self.database is None:
            return
        head, history = self.run(self.snapshots.head()), self.run(self.snapshots.history(limit=1000))
        kept = {
            one.version: Kept(one.document["value"], one.restored_from, one.pinned, one.proven_at is not None)
            for one in history
        }
        assert kept == self.model.versions
        if head is not None:
            assert (head.current, head.revert_deadline) == (history[0], self.model.deadline)
            assert head.confirmed.version == self.model.confirmed
        assert self.run(self.snapshots.verify()) is None
        assert self.snapshots.copy_failure is None


TestSnapshotMachine = SnapshotMachine.TestCase
TestSnapshotMachine.settings = settings(max_examples=15, stateful_step_count=25)
