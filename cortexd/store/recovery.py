"""What the database lost of the configuration in force, made good from the copy beside it."""

import msgspec

from cortexd.store.chain import damage, sealed
from cortexd.store.snapshot import Head, Snapshot
from cortexd.store.snapshot_rows import SnapshotRows

_ANOTHER = "The copy of the configuration in force is of another history than the database; the database is believed."


async def recover(rows: SnapshotRows, copied: Head | None, now: float) -> str | None:
    """Returns what was found and done, as a sentence; None where all is well. `now` is in seconds since the epoch."""
    head = await rows.head()
    fault = None if head is None else damage(head.current)
    # A copy may be behind: the power can fail between a change and its copy. It may be of a head that was damaged already.
    if copied is None or damage(copied.current) or (head is not None and head.current.version > copied.current.version):
        return str(fault) if fault else None
    if head is None or head.current.version < copied.current.version:
        return await _restore_end(rows, head, copied)
    if fault is None:
        return None if head.current.chain_hash == copied.current.chain_hash else _ANOTHER
    if not _same_place(head.current, copied.current):
        return str(fault)
    await _repeat(rows, copied, now)
    return f"{fault} Its copy is sound, and is in force as version {head.current.version + 1}."


def _same_place(snapshot: Snapshot, other: Snapshot) -> bool:
    """In the chain; one of the hashes may be what is damaged."""
    return snapshot.chain_hash == other.chain_hash or snapshot.previous_hash == other.previous_hash != ""


async def _restore_end(rows: SnapshotRows, head: Head | None, copied: Head) -> str:
    newest = 0 if head is None else head.current.version
    lost = [snapshot for snapshot in (copied.confirmed, copied.current) if snapshot.version > newest]
    if len(lost) == 2 and lost[0] == lost[1]:
        del lost[0]
    if head is not None and lost[0].version == newest + 1 and lost[0].previous_hash != head.current.chain_hash:
        return _ANOTHER
    await rows.add(lost)
    known = await rows.find(copied.confirmed.version)
    confirmed = copied.confirmed if known else copied.current
    deadline = copied.revert_deadline if known else None
    await rows.set_head(Head(current=copied.current, confirmed=confirmed, revert_deadline=deadline, file=copied.file))
    had = f"lost every version of the configuration after {newest}" if newest else "no version of the configuration"
    return f"The database had {had}; version {copied.current.version} is restored from its copy, others are gone."


async def _repeat(rows: SnapshotRows, copied: Head, now: float) -> None:
    """As one more version: the damaged one stays as it is."""
    snapshot = sealed(
        msgspec.structs.replace(
            copied.current,
            version=copied.current.version + 1,
            parent=copied.current.version,
            previous_hash=copied.current.chain_hash,
            author="cortexd",
            reason=f"version {copied.current.version} was damaged in the database",
            source="boot",
            restored_from=copied.current.version,
            created_at=now,
            proven_at=None,
            pinned=False,
        )
    )
    await rows.add([snapshot])
    confirmed = snapshot if copied.revert_deadline is None else copied.confirmed
    await rows.set_head(
        Head(current=snapshot, confirmed=confirmed, revert_deadline=copied.revert_deadline, file=copied.file)
    )
