"""What `/admin/config` and `/admin/snapshots` take and answer. Times are in seconds since the epoch."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from cortexd.config import Settings
from cortexd.store.change import Change
from cortexd.store.snapshot import Snapshot, Source


class DocumentInForce(msgspec.Struct, frozen=True, kw_only=True):
    version: int | None
    hash: str  # SHA-256 of the document's canonical form
    document: Settings
    settings: dict[str, dict[str, Any]] | UnsetType = (
        UNSET  # by key: its value, environment and flags over it, and origin
    )


class Unchanged(msgspec.Struct, frozen=True):
    """Answer to a reload of a file that says nothing new."""

    changed: bool = False


class TermsInBody(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a rollback; it may be left out."""

    reason: str | None = None
    confirm_within: float | str | None = None  # seconds, or a duration
    dry_run: bool | None = None


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    parent: int | None
    hash: str  # of its document
    source: Source
    author: str
    reason: str
    created_at: float
    restored_from: int | None
    proven_at: float | None
    pinned: bool


class SnapshotReport(SnapshotFacts, frozen=True, kw_only=True):
    document: msgspec.Raw


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    snapshots: list[SnapshotFacts]
    current: int | None  # in force
    confirmed: int | None  # what a revert goes back to
    revert_at: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    changes: list[Change]
    patch: list[dict[str, Any]]  # RFC 6902
    text: str  # a line for each change


class FaultFacts(msgspec.Struct, frozen=True):
    version: int
    problem: str


class Verification(msgspec.Struct, frozen=True):
    fault: FaultFacts | None


def snapshot_facts(snapshot: Snapshot) -> SnapshotFacts:
    return SnapshotFacts(**_facts(snapshot))


def snapshot_report(snapshot: Snapshot) -> SnapshotReport:
    return SnapshotReport(**_facts(snapshot), document=snapshot.body)


def _facts(snapshot: Snapshot) -> dict[str, Any]:
    same = {name: getattr(snapshot, name) for name in SnapshotFacts.__struct_fields__ if name != "hash"}
    return {**same, "hash": snapshot.content_hash}
