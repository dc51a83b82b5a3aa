"""The configuration in force, and the one way to another: read, validate, plan, keep, apply."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from time import time
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from cortexd.change_plan import ChangePlan
from cortexd.config import Settings, Sources, settings_from_document
from cortexd.config.reading import Reading
from cortexd.confirmation import keep_deadlines
from cortexd.errors import CortexdError, InvalidConfiguration, StoreFailed
from cortexd.events import ConfigurationChanged, ConfigurationRefused, Event
from cortexd.outcome import OURS, ConfigurationStatus, FileState, Outcome, hidden
from cortexd.rollouts import Fallback
from cortexd.store.change import Change, changes
from cortexd.store.snapshot import Head, Origin, Snapshot
from cortexd.store.snapshots import Snapshots

_log = logging.getLogger("cortexd")


Edit = Callable[[dict[str, Any]], Mapping[str, Any]]  # the document in force → the one that is wanted


class Prepared(Protocol):
    """A configuration that was found good, and can be in force from one moment to the next."""

    @property
    def plan(self) -> ChangePlan: ...


P = TypeVar("P", bound=Prepared)
T = TypeVar("T")


class Subject(Protocol[P]):
    """Who is configured."""

    async def prepare(self, settings: Settings, *, strict: bool) -> P:
        """Find out what these settings would do; changes nothing. Raises InvalidConfiguration, unless not `strict`."""
        ...

    def adopt(self, prepared: P, version: int | None) -> None:
        """They are in force. May not fail."""
        ...


class Configuration(Generic[P]):
    """One document is in force; changes come one after another. Without `snapshots` nothing is kept, and there are no versions.

    Everything that changes it raises InvalidConfiguration, StaleVersion where another version than `expected` is in force,
    UnknownVersion, StoreFailed; and then nothing has changed. What has been returned survives whatever comes.
    """

    def __init__(
        self,
        sources: Sources,
        subject: Subject[P],
        publish: Callable[[Event], None],
        snapshots: Snapshots | None,
        failure: StoreFailed | None = None,
        copied_head: Head | None = None,
    ) -> None:
        """`failure` says why there are no snapshots although there should be; then `copied_head` stays in force."""
        self.sources = sources
        self.problem: str | None = None  # with the file, or with what was in force
        self.version: int | None = None
        self.document = Settings()
        self.reading = Reading(Settings(), {})
        self.fallbacks: Callable[[], Mapping[str, Fallback]] = dict
        self._subject = subject
        self._publish = publish
        self._snapshots = snapshots
        self._failure = failure
        self._copied_head = copied_head
        self._turn = asyncio.Lock()
        self._moved = asyncio.Event()
        self._plan = ChangePlan()
        self._changing: set[asyncio.Task[Any]] = set()

    @property
    def settings(self) -> Settings:
        """What is in force: environment and flags over the document."""
        return self.reading.settings

    @property
    def snapshots(self) -> Snapshots:
        """To be read. Raises StoreFailed where nothing is kept."""
        if self._snapshots is None:
            raise self._failure or StoreFailed("This daemon keeps nothing, hence no versions of its configuration.")
        return self._snapshots

    async def start(self) -> None:
        """What was in force is in force again, unless its time is over or the file has changed since: that is decided first, and
        then adopted, once.

        Raises InvalidConfiguration where nothing was in force and the file is not valid.
        """
        async with self._turn:
            head = await self._head()
            if head is not None:
                self.document, self.version = self._read_back(head), head.current.version
                if (reverted := await self._reverted(time())) is not None:
                    before, (self.document, snapshot) = self.document, reverted
                    self.version = snapshot.version
                    self._tell(snapshot, changes(_json(before), _json(self.document)))
            try:
                if await self._apply_file(first=head is None) is not None:
                    return
            except (InvalidConfiguration, StoreFailed) as error:
                if head is None and isinstance(error, InvalidConfiguration):
                    raise
                self._report(error)
                if head is None:  # the disk is full, say: better to serve than not to
                    self.document, self.version = await self._of_file(), None
            await self._adopt(self.document, self.version)

    async def reload(self) -> Outcome | None:
        """Look at the file; what it says is in force if it says something new. None where it does not.

        A file that is not valid changes nothing: it is reported, and raised.
        """
        return await self._in_turn(self._reload())

    async def change(
        self,
        edit: Edit,
        origin: Origin,
        *,
        expected: int | None = None,
        confirm_within: float | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Have what `edit` makes of the document in force. `confirm_within` in seconds; see `Snapshots`."""

        async def changing() -> Outcome:
            wanted = await asyncio.to_thread(lambda: settings_from_document(edit(_json(self.document))))
            body: dict[str, Any] = msgspec.to_builtins(wanted)

            async def keep() -> Snapshot:
                return await self.snapshots.put(body, origin, expected=expected, confirm_within=confirm_within)

            return await self._have(wanted, keep, expected=expected, dry_run=dry_run)

        return await self._in_turn(changing())

    async def rollback(
        self,
        version: int,
        author: str,
        reason: str,
        *,
        expected: int | None = None,
        confirm_within: float | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """A new version with the content of an earlier one."""

        async def rolling_back() -> Outcome:
            wanted = await asyncio.to_thread(settings_from_document, (await self.snapshots.get(version)).document)

            async def keep() -> Snapshot:
                return await self.snapshots.rollback(
                    version, author, reason, expected=expected, confirm_within=confirm_within
                )

            # It was in force once: what has become wrong with it since is told, and is no reason to keep anybody from it.
            return await self._have(wanted, keep, expected=expected, dry_run=dry_run, strict=False)

        return await self._in_turn(rolling_back())

    async def import_bundle(self, packed: bytes, author: str, reason: str, *, expected: int | None = None) -> Outcome:
        """See `Snapshots.import_bundle`. Raises InvalidBundle as well."""

        async def importing() -> Outcome:
            wanted = settings_from_document((await self.snapshots.last_of(packed)).document)

            async def keep() -> Snapshot:
                return await self.snapshots.import_bundle(packed, author, reason, expected=expected)

            return await self._have(wanted, keep, expected=expected, dry_run=False)

        return await self._in_turn(importing())

    async def confirm(self, version: int) -> None:
        """It stays in force. Raises StaleVersion where it is not."""
        await self._in_turn(self.snapshots.confirm(version))
        self._moved.set()

    async def past(self, version: int) -> Settings:
        """What would be in force if this version were. Raises UnknownVersion, InvalidConfiguration, StoreFailed."""
        document = (await self.snapshots.get(version)).document
        return await asyncio.to_thread(lambda: self._over(settings_from_document(document)).settings)

    async def status(self) -> ConfigurationStatus:
        head = await self._head()
        current = None if head is None else head.current
        return ConfigurationStatus(
            version=self.version,
            hash=current.content_hash if current else "",
            source=current.source if current else "file",
            author=current.author if current else "",
            reason=current.reason if current else "",
            created_at=current.created_at if current else 0.0,
            confirmed=head.confirmed.version if head else None,
            revert_at=head.revert_deadline if head else None,
            file=None if self.sources.file is None else str(self.sources.file),
            file_state=await self._file_state(head),
            waiting_for_a_start=self._plan.daemon,
            problem=self.problem,
            fallbacks=self.fallbacks(),
        )

    async def keep_deadlines(self) -> None:
        """Go back, for as long as this runs, from what is not confirmed in time."""
        if self._snapshots is not None:
            await keep_deadlines(
                self._snapshots, self._moved, lambda now: self._in_turn(self._revert_expired(now)), self._report
            )

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        """One after another, and whole: whoever asks for it may leave meanwhile, but between keeping and applying is no way out."""

        async def alone() -> T:
            async with self._turn:
                return await work

        task = asyncio.create_task(alone(), name="change the configuration")
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        return await asyncio.shield(task)

    async def _reload(self) -> Outcome | None:
        try:
            outcome = await self._apply_file(first=False)
        except (InvalidConfiguration, StoreFailed) as error:
            self._report(error)
            raise
        return outcome

    async def _apply_file(self, *, first: bool) -> Outcome | None:
        """Where it says something new; the first configuration of all is what it says, or the defaults."""
        file = await asyncio.to_thread(self.sources.read_file)
        if not first and (file is None or file.digest == await self._applied()):
            self.problem = None
            return None
        wanted = file.document if file is not None else Settings()
        digest = file.digest if file is not None else None
        name = self.sources.file.name if self.sources.file is not None else "the configuration file"
        origin = Origin(author="cortexd", reason=f"{name} has changed", source="file")
        if first:
            origin = Origin(author="cortexd", reason="the first start", source="boot")

        async def keep() -> Snapshot:
            return await self.snapshots.put(msgspec.to_builtins(wanted), origin, expected=None, file=digest)

        outcome = await self._have(wanted, keep, expected=None, dry_run=False)
        self.problem = None
        return outcome

    async def _applied(self) -> str | None:
        head = await self._head()
        return None if head is None else head.file

    async def _head(self) -> Head | None:
        return await self._snapshots.head() if self._snapshots is not None else self._copied_head

    async def _have(
        self,
        wanted: Settings,
        keep: Callable[[], Awaitable[Snapshot]],
        *,
        expected: int | None,
        dry_run: bool,
        strict: bool = True,
    ) -> Outcome:
        """Have `wanted` in force, kept by `keep`: the only place where a configuration changes."""
        reading = await asyncio.to_thread(
            self._over, wanted
        )  # large documents take their time, which streams do not have
        prepared = await self._subject.prepare(reading.settings, strict=strict)
        different = await asyncio.to_thread(lambda: changes(_json(self.document), _json(wanted)))
        would = Outcome(
            version=self.version,
            changed=False,
            changes=different,
            plan=prepared.plan,
            hidden=hidden(different, reading),
        )
        if dry_run:
            if different and self._snapshots is not None:  # what is in force already is never too late
                await self._snapshots.expect(expected)
            return would
        if self._snapshots is None:
            if self._failure is not None:
                raise self._failure
            self._adopt_prepared(wanted, reading, prepared, None)
            return msgspec.structs.replace(would, changed=bool(different))
        before = self.version
        snapshot = await keep()
        self._adopt_prepared(wanted, reading, prepared, snapshot.version)
        changed = snapshot.version != before
        if changed:
            self._tell(snapshot, different)
        head = await self._snapshots.head()
        revert_at = None if head is None else head.revert_deadline
        return msgspec.structs.replace(would, version=snapshot.version, changed=changed, revert_at=revert_at)

    async def _revert_expired(self, now: float) -> None:
        before = self.document
        if (reverted := await self._reverted(now)) is not None:
            wanted, snapshot = reverted
            await self._adopt(wanted, snapshot.version)
            self._tell(snapshot, changes(_json(before), _json(wanted)))

    async def _reverted(self, now: float) -> tuple[Settings, Snapshot] | None:
        """What is in force since nobody confirmed what was; kept, but not adopted yet. `now` is in seconds since the epoch."""
        if self._snapshots is None or (head := await self._snapshots.expired(now)) is None:
            return None
        wanted = settings_from_document(head.confirmed.document)
        snapshot = await self._snapshots.revert(now)
        return None if snapshot is None else (wanted, snapshot)

    def _read_back(self, head: Head) -> Settings:
        try:
            return settings_from_document(head.current.document)
        except InvalidConfiguration as error:
            raise InvalidConfiguration(
                f"Version {head.current.version} of the configuration, which is in force, cannot be read by this cortexd; "
                f"was it written by a later one? {error.message}"
            ) from error

    async def _adopt(self, wanted: Settings, version: int | None) -> None:
        """What is in force by right, whatever is wrong with it."""
        reading = await asyncio.to_thread(self._over, wanted)
        self._adopt_prepared(wanted, reading, await self._subject.prepare(reading.settings, strict=False), version)

    def _adopt_prepared(self, wanted: Settings, reading: Reading, prepared: P, version: int | None) -> None:
        ours = f"version {version}" if version is not None else str(self.sources.file or "default")
        origins = {path: ours if origin == OURS else origin for path, origin in reading.origins.items()}
        self.document, self.reading = wanted, Reading(reading.settings, origins)
        self.version, self._plan = version, prepared.plan
        self._subject.adopt(prepared, version)
        self._moved.set()

    def _over(self, document: Settings) -> Reading:
        return self.sources.over(document, OURS)

    async def _of_file(self) -> Settings:
        file = await asyncio.to_thread(self.sources.read_file)
        return file.document if file is not None else Settings()

    async def _file_state(self, head: Head | None) -> FileState:
        try:
            file = await asyncio.to_thread(self.sources.read_file)
        except InvalidConfiguration:
            return "not applied"
        if file is None:
            return "none"
        if head is not None and file.digest != head.file:
            return "not applied"
        return "applied" if file.document == self.document else "differs"

    def _tell(self, snapshot: Snapshot, different: list[Change]) -> None:
        self._publish(
            ConfigurationChanged(
                at=time(),
                version=snapshot.version,
                source=snapshot.source,
                author=snapshot.author,
                reason=snapshot.reason,
                restored_from=snapshot.restored_from,
                changed=[change.key for change in different],
            )
        )

    def _report(self, error: CortexdError) -> None:
        self.problem = error.message
        self._publish(ConfigurationRefused(at=time(), problem=error.message))


def _json(document: Settings) -> dict[str, Any]:
    """As it is read back from where it is kept: with lists, where `to_builtins` leaves tuples."""
    return msgspec.json.decode(msgspec.json.encode(document))
