"""The hash chain: each version is sealed together with the one before it, so that no byte changes unnoticed."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cortexd.store.failures import store_errors
from cortexd.store.snapshot import Snapshot

_UNSEALED = {"chain_hash", "body", "proven_at", "pinned"}  # the body by its content hash
_SEALED = [field for field in Snapshot.__struct_fields__ if field not in _UNSEALED]


class Fault(NamedTuple):
    """The first version that is not what was written, and how that shows."""

    version: int
    problem: str

    def __str__(self) -> str:
        return f"Version {self.version} {self.problem}."


def content_hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def chain_hash(snapshot: Snapshot) -> str:
    sealed = {field: getattr(snapshot, field) for field in _SEALED}
    return hashlib.sha256(msgspec.json.encode(sealed, order="sorted")).hexdigest()


def sealed(snapshot: Snapshot) -> Snapshot:
    """The same with the hashes it should have."""
    snapshot = msgspec.structs.replace(snapshot, content_hash=content_hash(bytes(snapshot.body)))
    return msgspec.structs.replace(snapshot, chain_hash=chain_hash(snapshot))


def damage(snapshot: Snapshot) -> Fault | None:
    """What shows in the version alone."""
    if content_hash(bytes(snapshot.body)) != snapshot.content_hash:
        return Fault(snapshot.version, "has another content than was written")
    if chain_hash(snapshot) != snapshot.chain_hash:
        return Fault(snapshot.version, "has another author, reason, time or place than was written")
    return None


def first_fault(snapshots: Iterable[Snapshot], forgotten: Container[int]) -> Fault | None:
    """`snapshots` from the oldest to the newest; of all numbers up to the newest, only `forgotten` ones may be missing."""
    version, previous_hash = 0, ""
    for snapshot in snapshots:
        missing = next((number for number in range(version + 1, snapshot.version) if number not in forgotten), None)
        if missing is not None:
            return Fault(missing, "is missing")
        if snapshot.version <= version:
            return Fault(snapshot.version, "is out of its place")
        if fault := damage(snapshot):
            return fault
        if snapshot.version == version + 1 and snapshot.previous_hash != previous_hash:
            return Fault(snapshot.version, "does not follow from the one before")
        version, previous_hash = snapshot.version, snapshot.chain_hash
    return None


def verify(path: Path) -> Fault | None:
    """The first fault among the snapshots of the database at `path`, each of which is read.

    Raises StoreFailed where they cannot be read at all.
    """
    with (
        store_errors(path),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection,
    ):
        connection.row_factory = sqlite3.Row
        connection.text_factory = _decoded
        connection.execute("BEGIN")
        forgotten = {version for (version,) in connection.execute("SELECT version FROM forgotten")}
        rows = connection.execute("SELECT * FROM snapshot ORDER BY version")
        if fault := first_fault((from_row(dict(row)) for row in rows), forgotten):
            return fault
        newest = connection.execute("SELECT max(version) FROM snapshot").fetchone()[0]
        heads = [tuple(row) for row in connection.execute("SELECT current FROM head")]
        if heads != ([] if newest is None else [(newest,)]):
            return Fault(newest or 1, "is not the one in force")
        return None


def from_row(columns: dict[str, Any]) -> Snapshot:
    """A row as a snapshot; what a damaged row holds is taken as it is."""
    body = columns["body"]
    columns["body"] = msgspec.Raw(body.encode() if isinstance(body, str) else body)
    columns["pinned"] = bool(columns["pinned"])
    return Snapshot(**columns)


def _decoded(text: bytes) -> str:
    # A damaged letter must not hide which version it is in: as another letter, it breaks the version's seal.
    return text.decode(errors="replace")
