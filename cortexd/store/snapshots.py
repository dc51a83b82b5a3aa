"""Every configuration that was in force, kept for good, and which one is."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec

from cortexd.errors import InvalidConfiguration, StaleVersion, StoreFailed
from cortexd.store import bundle, chain
from cortexd.store.backup import backup
from cortexd.store.chain import Fault
from cortexd.store.change import Change, changes
from cortexd.store.database import Database
from cortexd.store.head_copy import HeadCopy
from cortexd.store.recovery import recover
from cortexd.store.snapshot import Body, Head, Origin, Snapshot, canonical
from cortexd.store.snapshot_rows import SnapshotRows

# A body that was written for another schema, as one of today's; raises InvalidConfiguration where there is no way.
Upgrade = Callable[[dict[str, Any], int], Body]

_KEPT = 1000  # versions


def no_upgrade(_body: dict[str, Any], schema_version: int) -> Body:
    raise InvalidConfiguration(
        f"The configuration was written for schema {schema_version}, which this cortexd cannot read."
    )


class Snapshots:
    """Versions that are added and never changed, one of them in force: the newest.

    A change is on the disk when its call returns; one that raises has changed nothing. All of them raise StoreFull or
    StoreFailed where the database does. `expected` is the version that the writer knows: where another one is in force, the
    change raises StaleVersion and says what is different. None asks for no such comparison, 0 for an empty store.

    `confirm_within` is the number of seconds after which `revert` undoes the change, unless `confirm` came first. Further
    changes meanwhile do not confirm it: all of them are undone together, unless they end where they started.
    """

    def __init__(
        self,
        database: Database,
        schema_version: int = 1,
        upgrade: Upgrade = no_upgrade,
        keep: int = _KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.notice: str | None = None  # what `start` found lost or damaged, and what it did about it
        self.copy_failure: StoreFailed | None = None  # while the copy of the head is not written
        self._database = database
        self._schema_version = schema_version
        self._upgrade = upgrade
        self._keep = keep
        self._clock = clock
        self._copy = HeadCopy(database.path)
        self._copied: Head | None = None

    @property
    def directory(self) -> Path:
        """Where the database is."""
        return self._database.path.parent

    async def start(self) -> None:
        """To be awaited first: what the database lost, as far as the copy of its head has it, is in force again."""
        unreadable = None
        try:
            self._copied = await asyncio.to_thread(self._copy.read)
        except StoreFailed as failure:
            unreadable = failure.message
        async with self._changing() as rows:
            self.notice = await recover(rows, self._copied, self._clock()) or unreadable

    async def head(self) -> Head | None:
        """What is in force; None in an empty store."""
        async with self._reading() as rows:
            return await rows.head()

    async def get(self, version: int) -> Snapshot:
        """Raises UnknownVersion, and StoreFailed where it is not what was written."""
        async with self._reading() as rows:
            return _sound(await rows.get(version))

    async def history(self, limit: int = 100, before: int | None = None) -> list[Snapshot]:
        """The newest `limit` versions, those before the version `before` where it is given; newest first."""
        async with self._reading() as rows:
            return await rows.before(before, limit)

    async def diff(self, a: int, b: int) -> list[Change]:
        """What is different in `b`. Raises UnknownVersion."""
        async with self._reading() as rows:
            return changes(_sound(await rows.get(a)).document, _sound(await rows.get(b)).document)

    async def put(
        self,
        body: Body,
        origin: Origin,
        *,
        expected: int | None,
        confirm_within: float | None = None,
        file: str | None = None,
    ) -> Snapshot:
        """Have `body` in force. What is in force already makes no version, whatever was expected. Raises StaleVersion.

        `file` is the digest of the configuration file, where that is where `body` is from: it has been applied then.
        """
        content = canonical(body)
        async with self._changing() as rows:
            snapshot = await self._put(rows, content, origin, expected, confirm_within)
            head = await rows.head()
            if file is not None and head is not None and head.file != file:
                await rows.set_head(msgspec.structs.replace(head, file=file))
            return snapshot

    async def expect(self, expected: int | None) -> None:
        """Raises StaleVersion as a change would that expects this version."""
        async with self._reading() as rows:
            await self._expect(rows, await rows.head(), expected)

    async def rollback(
        self, version: int, author: str, reason: str, *, expected: int | None, confirm_within: float | None = None
    ) -> Snapshot:
        """A new version with the content of `version`. Raises UnknownVersion, StaleVersion, InvalidConfiguration."""
        origin = Origin(author=author, reason=reason, source="rollback", restored_from=version)
        async with self._changing() as rows:
            content = self._todays(await rows.get(version))
            return await self._put(rows, content, origin, expected, confirm_within)

    async def confirm(self, version: int) -> None:
        """What is in force stays in force. Raises StaleVersion where that is not `version`."""
        async with self._changing() as rows:
            head = await rows.head()
            await self._expect(rows, head, version)
            if head is not None:
                await rows.set_head(Head(current=head.current, confirmed=head.current, file=head.file))

    async def expired(self, now: float) -> Head | None:
        """What `revert` has to undo at `now`, in seconds since the epoch; None where there is nothing."""
        async with self._reading() as rows:
            return _expired(await rows.head(), now)

    async def revert(self, now: float) -> Snapshot | None:
        """A new version with the content that was confirmed last, if a change was not confirmed in time; else None.

        Raises InvalidConfiguration where that content is of another schema and cannot be read.
        """
        async with self._changing() as rows:
            if (head := _expired(await rows.head(), now)) is None:
                return None
            back = head.confirmed
            reason = f"version {head.current.version} was not confirmed in time"
            origin = Origin(author="cortexd", reason=reason, source="auto-revert", restored_from=back.version)
            snapshot = self._next(head, self._todays(back), origin)
            # A file that was applied meanwhile is undone as well: what it says is to be applied anew.
            undone = await rows.before(head.current.version + 1, head.current.version - back.version)
            file = None if any(one.source == "file" for one in undone) else head.file
            await self._append(rows, snapshot, Head(current=snapshot, confirmed=snapshot, file=file))
            return snapshot

    async def prove(self, version: int) -> None:
        """`version` has worked; it is kept for good. Raises UnknownVersion."""
        async with self._changing() as rows:
            if (await rows.get(version)).proven_at is None:
                await rows.prove(version, self._clock())

    async def pin(self, version: int, pinned: bool = True) -> None:
        """Keep `version` for good, or no longer. Raises UnknownVersion."""
        async with self._changing() as rows:
            await rows.get(version)
            await rows.pin(version, pinned)

    async def verify(self) -> Fault | None:
        """The first version that is not as it was written, found by reading all of them; None where all are sound."""
        return await asyncio.to_thread(chain.verify, self._database.path)

    async def export(self) -> bytes:
        """All versions as one bundle."""
        async with self._reading() as rows:
            snapshots = await rows.before()
        return await asyncio.to_thread(bundle.pack, snapshots[::-1])

    async def last_of(self, packed: bytes) -> Snapshot:
        """The newest version in a bundle. Raises InvalidBundle."""
        return (await asyncio.to_thread(bundle.unpack, packed))[-1]

    async def import_bundle(self, packed: bytes, author: str, reason: str, *, expected: int | None) -> Snapshot:
        """The bundle's whole history in an empty store; elsewhere, its last version's content as one new version.

        Raises InvalidBundle, StaleVersion, InvalidConfiguration.
        """
        snapshots = await asyncio.to_thread(bundle.unpack, packed)
        last = snapshots[-1]
        content = self._todays(last)
        origin = Origin(author=author, reason=reason, source="import")
        async with self._changing() as rows:
            if await rows.head() is not None:
                return await self._put(rows, content, origin, expected, None)
            await self._expect(rows, None, expected)
            await rows.add(snapshots)
            await rows.set_head(Head(current=last, confirmed=last))
            return last

    async def backup(self, target: Path) -> None:
        """The whole database, as it is now, at `target`; see `cortexd.store.backup.restore`."""
        await backup(self._database, target)

    async def _put(
        self, rows: SnapshotRows, content: bytes, origin: Origin, expected: int | None, confirm_within: float | None
    ) -> Snapshot:
        head = await rows.head()
        snapshot = self._next(head, content, origin)
        if head is not None and _same(head.current, snapshot):
            return head.current
        await self._expect(rows, head, expected)
        deadline = None if head is None else head.revert_deadline
        if head is not None and confirm_within is not None:
            deadline = snapshot.created_at + confirm_within
        file = None if head is None else head.file
        if head is None or deadline is None or _same(head.confirmed, snapshot):
            after = Head(current=snapshot, confirmed=snapshot, file=file)
        else:
            after = Head(current=snapshot, confirmed=head.confirmed, revert_deadline=deadline, file=file)
        await self._append(rows, snapshot, after)
        return snapshot

    def _next(self, head: Head | None, content: bytes, origin: Origin) -> Snapshot:
        parent = None if head is None else head.current
        return chain.sealed(
            Snapshot(
                version=1 if parent is None else parent.version + 1,
                parent=None if parent is None else parent.version,
                previous_hash="" if parent is None else parent.chain_hash,
                content_hash="",
                chain_hash="",
                schema_version=self._schema_version,
                created_at=self._clock(),
                body=msgspec.Raw(content),
                **msgspec.structs.asdict(origin),
            )
        )

    async def _append(self, rows: SnapshotRows, snapshot: Snapshot, head: Head) -> None:
        await rows.add([snapshot])
        await rows.set_head(head)
        await rows.forget(head, self._keep)

    async def _expect(self, rows: SnapshotRows, head: Head | None, expected: int | None) -> None:
        current = 0 if head is None else head.current.version
        if expected is None or expected == current:
            return
        message = f"Version {current} of the configuration is in force, not {expected}"
        known = await rows.find(expected)
        if head is None or known is None:
            raise StaleVersion(f"{message}.", current=current)
        changed = [change.key for change in changes(known.document, head.current.document)]
        told = ", ".join(changed) or "nothing in the end"
        by = f"{head.current.author}, “{head.current.reason}”"
        raise StaleVersion(f"{message}; changed meanwhile: {told} (last by {by}).", current=current, changed=changed)

    def _todays(self, snapshot: Snapshot) -> bytes:
        """The content of `snapshot` in today's schema; what is damaged must not be sealed anew."""
        _sound(snapshot)
        if snapshot.schema_version == self._schema_version:
            return bytes(snapshot.body)
        return canonical(self._upgrade(snapshot.document, snapshot.schema_version))

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncGenerator[SnapshotRows]:
        async with self._database.reading() as connection:
            yield SnapshotRows(connection)

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncGenerator[SnapshotRows]:
        async with self._database.writing() as connection:
            rows = SnapshotRows(connection)
            yield rows
            head = await rows.head()
        if head is None or head == self._copied:
            return
        # What follows comes after the commit: the change stands, and is acknowledged, even if its copy fails.
        self._copy.note(head)
        try:
            await asyncio.to_thread(self._copy.write)
        except StoreFailed as failure:
            self.copy_failure = failure
        else:
            self._copied, self.copy_failure = head, None


def _sound(snapshot: Snapshot) -> Snapshot:
    if fault := chain.damage(snapshot):
        raise StoreFailed(str(fault))
    return snapshot


def _same(snapshot: Snapshot, other: Snapshot) -> bool:
    return (snapshot.content_hash, snapshot.schema_version) == (other.content_hash, other.schema_version)


def _expired(head: Head | None, now: float) -> Head | None:
    if head is None or head.revert_deadline is None or head.revert_deadline > now:
        return None
    return head
