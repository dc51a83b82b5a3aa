"""Durations as people write them: "5m", "90s", "1h30m", a number of seconds, "-1" for ever."""

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds_of(text: str) -> float:
    """Raises ValueError with a sentence."""
    written = text.strip()
    try:
        return float(written)
    except ValueError:
        pass
    if not written or _PART.sub("", written):
        raise ValueError(f"{text!r} is not a duration; write 90s, 5m, 1h30m, or -1 for ever")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(written))
