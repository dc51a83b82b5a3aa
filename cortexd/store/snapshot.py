"""One configuration that was: its content, who wanted it and why, and its place in the chain."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Source = Literal["file", "api", "cli", "rollback", "auto-revert", "boot", "import"]
Body = Mapping[str, Any]  # a JSON document; secrets appear in it as references alone


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a configuration comes from, and why."""

    author: str
    reason: str
    source: Source
    restored_from: int | None = None  # the version that a rollback or a revert went back to


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A version as it is kept. Its chain hash seals all of it but `proven_at` and `pinned`, which alone may change."""

    version: int  # grows, and is never given twice
    parent: int | None  # the version that was in force before; None for the first
    previous_hash: str  # the chain hash of the version before; empty for the first
    content_hash: str  # SHA-256 of `body`, hexadecimal
    chain_hash: str
    schema_version: int
    author: str
    reason: str
    source: Source
    restored_from: int | None
    created_at: float  # seconds since the epoch
    body: msgspec.Raw  # canonical JSON
    proven_at: float | None = None  # seconds since the epoch
    pinned: bool = False

    @property
    def document(self) -> dict[str, Any]:
        """The body, decoded."""
        return msgspec.json.decode(self.body, type=dict[str, Any])


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force. `confirmed` is what a revert goes back to: `current` itself where no confirmation is awaited."""

    current: Snapshot
    confirmed: Snapshot
    revert_deadline: float | None = None  # seconds since the epoch; None where no confirmation is awaited
    file: str | None = None  # what the configuration file said when it was applied last, as a digest


def canonical(body: Body) -> bytes:
    """The one way to write `body`: sorted keys, no white space."""
    return msgspec.json.encode(body, order="sorted")
