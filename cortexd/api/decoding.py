"""From the bytes of a body to a request, or to one sentence that says which field is wrong, and how."""

import re
from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

import msgspec

from cortexd.api.schema import ASKS_NOTHING, CHOICES
from cortexd.errors import BadRequest

T = TypeVar("T", bound=msgspec.Struct)

_LONGEST_NOTHING = 64  # bytes; a longer value of a field in ASKS_NOTHING asks for something
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`(?P<path>\$.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(.+)`$")
_MISTYPED = re.compile(r"^Expected `(.+)`, got `(.+)`$")
_BOUND = re.compile(r"^Expected `\w+` (<=|>=) (.+)$")
_LENGTH = re.compile(r"^Expected `(\w+)` of length (<=|>=) (\d+)$")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_DEEPEST = 64
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BodyDecoder(Generic[T]):
    """For the bodies of one route."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._known = {field.name for field in msgspec.structs.fields(kind)} | ASKS_NOTHING.keys()

    def decode(self, body: bytes) -> tuple[T, list[str]]:
        """The request, and the names of the fields that were ignored; raises BadRequest."""
        try:
            fields = _raw_fields.decode(body)
            request = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _explained(str(error)) from None
        except RecursionError:
            raise BadRequest("The body is nested too deeply.") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(_malformed(body, error)) from None
        for name in ASKS_NOTHING.keys() & fields.keys():
            if not _asks_nothing(name, fields[name]):
                raise BadRequest(f"{name} is not supported yet; leave it out.", param=name)
        return request, [name for name in fields if name not in self._known]


def decode_json(body: bytes) -> Any:
    """Whatever JSON it is; raises BadRequest."""
    too_deep = BadRequest("The body is nested too deeply.")
    try:
        document = msgspec.json.decode(body)
    except RecursionError:
        raise too_deep from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(_malformed(body, error)) from None
    level: list[Any] = [document]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
    if level:
        raise too_deep
    return document


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


def _asks_nothing(name: str, value: msgspec.Raw) -> bool:
    raw = bytes(value)
    return len(raw) <= _LONGEST_NOTHING and msgspec.json.decode(raw) in ASKS_NOTHING[name]


def _malformed(body: bytes, error: Exception) -> str:
    if not body:
        return "The body is empty; send a JSON object."
    if isinstance(error, UnicodeDecodeError):
        return "The body is not UTF-8."
    if _SURROGATE.search(body):
        return "The body is not valid JSON; is half of a surrogate pair in it?"
    detail = str(error).removeprefix("JSON is malformed: ")
    return f"The body is not valid JSON: {detail[0].lower()}{detail[1:]}."


def _explained(message: str) -> BadRequest:
    """msgspec's message in words, with the field's path. Nothing in it is what the client sent."""
    match = _AT.match(message)
    assert match is not None
    what, path = match["what"], _dotted(match["path"] or "$")
    if missing := _MISSING.match(what):
        path = f"{path}.{missing[1]}" if path else missing[1]
        return BadRequest(f"{path} is missing.", param=path)
    if match["key"]:
        return BadRequest(f"The keys of {path} must be token ids: numbers, written as strings.", param=path)
    return BadRequest(f"{path or 'The body'} {_complaint(what, path)}.", param=path or None)


def _complaint(what: str, path: str) -> str:
    if match := _MISTYPED.match(what):
        return f"must be {_in_words(match[1])}, not {_in_words(match[2])}"
    if match := _LENGTH.match(what):
        unit = "characters" if match[1] == "str" else "entries"
        if match[2] == ">=":
            return "must not be empty"
        return f"must not have more than {match[3]} {unit}"
    if match := _BOUND.match(what):
        return f"must be at {'most' if match[1] == '<=' else 'least'} {match[2].removesuffix('.0')}"
    if (choices := CHOICES.get(path.rpartition(".")[2])) is not None:
        return f"must be one of {', '.join(choices)}"
    return "is out of range"


def _in_words(types: str) -> str:
    words = [_WORDS.get(name, name) for name in types.split(" | ") if name != "null" or types == "null"]
    return " or ".join(words)


def _dotted(path: str) -> str:
    """`$.messages[0].content` as `messages.0.content`; the value under any key of a mapping as the mapping itself."""
    return path.removeprefix("$").replace("[...]", "").replace("[", ".").replace("]", "").removeprefix(".")
