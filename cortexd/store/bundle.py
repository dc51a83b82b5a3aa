"""The whole history in one file: JSON lines that anybody can read and nobody can cut short unnoticed."""

import hashlib
from collections.abc import Sequence

import msgspec

from cortexd.errors import InvalidBundle
from cortexd.store.chain import first_fault
from cortexd.store.snapshot import Snapshot

_FORMAT = "cortexd-snapshots-1"


class _First(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    snapshots: int


class _Last(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str  # of all lines before, with their ends


def pack(snapshots: Sequence[Snapshot]) -> bytes:
    """`snapshots` from the oldest to the newest, one a line, between a line that counts and a line that seals them."""
    lines = msgspec.json.Encoder().encode_lines([_First(_FORMAT, len(snapshots)), *snapshots])
    return lines + msgspec.json.encode(_Last(hashlib.sha256(lines).hexdigest())) + b"\n"


def unpack(bundle: bytes) -> list[Snapshot]:
    """What was packed, verified: at least one snapshot, the last of them the one that was in force.

    Raises InvalidBundle.
    """
    first, *lines, last = bundle.splitlines(keepends=True) if bundle.count(b"\n") > 1 else (b"", b"")
    try:
        counted = msgspec.json.decode(first, type=_First)
        seal = msgspec.json.decode(last, type=_Last)
        snapshots = [msgspec.json.decode(line, type=Snapshot) for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBundle(f"This is no bundle of snapshots ({error}).") from None
    if counted.format != _FORMAT:
        raise InvalidBundle(f"The bundle is of the format {counted.format!r}; this cortexd reads {_FORMAT!r}.")
    if hashlib.sha256(b"".join((first, *lines))).hexdigest() != seal.sha256 or counted.snapshots != len(snapshots):
        raise InvalidBundle("The bundle is not as it was exported.")
    if not snapshots:
        raise InvalidBundle("The bundle holds no snapshot.")
    # Retention leaves gaps; that they are those of the exporter is what the seal is for.
    if fault := first_fault(snapshots, forgotten=range(1, snapshots[-1].version)):
        raise InvalidBundle(f"The bundle's history is damaged. {fault}")
    return snapshots
