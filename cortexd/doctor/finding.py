"""What a check has found."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from cortexd.catalogue.spec import ModelSpec

Level = Literal["ok", "note", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """`says` is one sentence about what is; where that is not ok, `advice` is what to do."""

    check: str
    level: Level
    says: str
    advice: str = ""


def ok(check: str, says: str) -> Finding:
    return Finding(check, "ok", says)


def note(check: str, says: str, advice: str = "") -> Finding:
    """Worth knowing; nothing has to be done."""
    return Finding(check, "note", says, advice)


def warning(check: str, says: str, advice: str) -> Finding:
    """It works, but not all of it, or not as well as it could."""
    return Finding(check, "warning", says, advice)


def problem(check: str, says: str, advice: str) -> Finding:
    return Finding(check, "problem", says, advice)


def missed(spec: ModelSpec) -> Callable[[str, str, str], Finding]:
    """How bad it is that this model cannot be loaded: somebody has configured it, or its file merely lies there."""
    return problem if spec.source == "file" else warning


def some(names: Sequence[str], most: int = 5) -> str:
    """As many names as a line holds."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}" or "none"
