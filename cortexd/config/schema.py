"""The document's JSON schema, by which editors complete and check a cortexd.toml."""

from typing import Any

import msgspec

from cortexd.config.document import Settings
from cortexd.config.keys import Key, keys

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """What msgspec says of the types, plus what TOML differs in: durations and sizes may be written in two ways, null in none."""
    schema: dict[str, Any] = msgspec.json.schema(Settings)
    for section in schema["$defs"].values():
        for inner in section["properties"].values():
            if "$ref" in inner:
                del inner["default"]  # its keys say theirs
    for key in keys(Settings):
        properties = schema["$defs"][key.owner.__name__]["properties"]
        properties[key.member.name] = _property(key, properties[key.member.name])
    return {"$schema": _DIALECT, "title": "cortexd.toml", **schema}


def json_schema_text() -> str:
    """The same, as it is written into files."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"


def _property(key: Key, of_type: dict[str, Any]) -> dict[str, Any]:
    some = [one for one in of_type.pop("anyOf", []) if one != {"type": "null"}]
    of_type |= some[0] if len(some) == 1 else {"anyOf": some} if some else {}
    if of_type.get("default", ...) is None:
        del of_type["default"]
    if key.member.unit in ("s", "size"):
        of_type["type"] = ["number", "string"]
    said = {"description": key.member.description, "x-unit": key.member.unit, "x-restart": key.member.restart}
    return of_type | {name: value for name, value in said.items() if value}
