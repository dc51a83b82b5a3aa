"""Values as TOML, written as people would."""

import json
import re
from typing import Any, cast

import msgspec

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def literal(value: Any, unit: str = "") -> str:
    """What stands behind the equals sign; reading it gives the value again. `unit` is that of the key."""
    match value:
        case bool():
            return str(value).lower()
        case float() if unit == "s":
            return _duration(value)
        case float() if unit == "target" and value.is_integer():
            return str(int(value))  # a weight
        case str():
            # JSON escapes all that TOML wants escaped, but for one character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(literal(one) for one in cast('list[Any]', value))}]"
        case dict():
            parts = [
                f"{key_literal(name)} = {literal(one, unit)}" for name, one in cast("dict[str, Any]", value).items()
            ]
            return f"{{ {', '.join(parts)} }}" if parts else "{}"
        case _:
            return literal(msgspec.to_builtins(value))


def _duration(seconds: float) -> str:
    if 0 < seconds < 1e9 and seconds.is_integer():
        unit, length = next((unit, length) for unit, length in _UNITS if seconds % length == 0)
        return f'"{int(seconds) // length}{unit}"'
    return repr(seconds)


def key_literal(name: str) -> str:
    """A key, in quotes only where it needs them."""
    return name if _BARE.fullmatch(name) else literal(name)
