"""What becomes of a change of the configuration, and how the configuration stands."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from cortexd.change_plan import ChangePlan
from cortexd.config import Reading
from cortexd.rollouts import Fallback
from cortexd.store.change import Change

OURS = "document"  # the origin of what a document sets that has no version yet

FileState = Literal["none", "applied", "differs", "not applied"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a proposed change, or would."""

    version: int | None  # in force; None where nothing is kept
    changed: bool  # False: it was in force already, or this is a dry run
    changes: list[Change]
    plan: ChangePlan
    hidden: dict[str, str] = {}  # changed keys that have no effect, and what wins over each: a variable, or a flag
    revert_at: float | None = None  # seconds since the epoch; unless confirmed by then


class ConfigurationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds since the epoch."""

    version: int | None
    hash: str
    source: str
    author: str
    reason: str
    created_at: float
    confirmed: int | None  # the version that a revert goes back to
    revert_at: float | None
    file: str | None
    file_state: (
        FileState  # "differs": it was applied, and another version is in force since; "not applied": see `problem`
    )
    waiting_for_a_start: list[str]  # keys
    problem: str | None  # with what was to be applied last
    fallbacks: Mapping[str, Fallback]  # models that do not load as they are configured, and answer as they last did


def hidden(different: list[Change], reading: Reading) -> dict[str, str]:
    """Of what is different, what has no effect, and what is in force instead of it."""
    origins = {change.key: reading.origins.get(change.path, OURS) for change in different}
    return {key: origin for key, origin in origins.items() if origin not in (OURS, "default")}
