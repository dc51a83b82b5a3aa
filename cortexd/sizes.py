"""Sizes of memory as people write them, "12 GB", "12 GiB", "12e9", "70 %", and as people read them."""

import re
from collections.abc import Sequence

from cortexd.errors import InvalidConfiguration

_WRITTEN = re.compile(r"(\d+(?:\.\d*)?(?:e\+?\d+)?)\s*(%|[kmgt]i?b|b)?", re.IGNORECASE)
UNITS = ("B", "KB", "MB", "GB")
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def bytes_of(text: str, total: int, *, key: str) -> int:
    """`total` is what a percentage is of. Raises InvalidConfiguration with one sentence that begins with `key`."""
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise InvalidConfiguration(f"{key}: {text!r} is not a size; write 12 GB, 12 GiB, 12e9 or 70 %.")
    number, unit = float(written[1]), (written[2] or "b").lower()
    if unit == "%":
        if number > 100:
            raise InvalidConfiguration(f"{key}: {text} is more than there is.")
        return int(total * number / 100)
    if number > 1e18:  # also what no integer can be made of
        raise InvalidConfiguration(f"{key}: {text} is more memory than there is in the world.")
    return int(number * (1024 if "i" in unit else 1000) ** _POWERS.get(unit[0], 0))


def size(count: float, units: Sequence[str] = UNITS) -> str:
    """Bytes for people, in powers of 1000, and never in more than the last of `units`."""
    for unit in units[:-1]:
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {units[-1]}"
