"""What the declarations say of each key: its name, type, default, unit, description, bounds, and what a change takes."""

import types
import typing
from functools import cache
from typing import Any, Literal

import msgspec
from msgspec import inspect

from cortexd.config.document import Document
from cortexd.config.secret import Secret

Restart = Literal["", "model", "daemon"]
RESTARTS: dict[Restart, str] = {
    "model": "takes effect at the model's next load",
    "daemon": "takes effect at the daemon's next start",
}

_HINTS = {
    "s": 'write "90s", "5m" or "1h30m"',
    "size": 'write "12 GB", "12 GiB", "70 %" or "auto"',
    "secret": 'write { credential = "name" }, { file = "path" } or { environment = "NAME" }',
    "target": 'write "goose", "goose@17" or { "goose@17" = 95, "goose@18" = 5 }',
}
_TEXTS = {"size": "a size", "target": "a model"}


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a section: a key, a section, or, where `repeated`, an array of sections."""

    name: str
    annotation: Any
    default: Any  # NODEFAULT where it has to be given
    section: type[Document] | None = None
    repeated: bool = False
    optional: bool = False  # a section that need not be there
    description: str = ""
    unit: str = (
        ""  # "s": duration · "size": memory, or a part of it · "B": bytes · "path": like PATH · "target": a model · ""
    )
    restart: Restart = ""
    examples: tuple[Any, ...] = ()
    secret: bool = False
    table: "tuple[Member, Member] | None" = None  # where it may be one: what its keys are, and its values
    allowed: str = ""  # "an integer from 0 to 65535"
    hint: str = ""  # how it is written


class Key(msgspec.Struct, frozen=True):
    """A key of the document, with where it stands."""

    path: tuple[str, ...]
    member: Member
    owner: type[Document]
    settable: bool  # by flags and environment: what is in no array of sections

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"CORTEXD_{'__'.join(self.path).upper()}"


@cache
def members(section: type[Document]) -> tuple[Member, ...]:
    """The fields of a section, as they are declared."""
    return tuple(_member(field.name, field.type, field.default) for field in msgspec.structs.fields(section))


@cache
def keys(section: type[Document], path: tuple[str, ...] = (), settable: bool = True) -> tuple[Key, ...]:
    """All keys of a document, as they are declared."""
    found: list[Key] = []
    for member in members(section):
        here = (*path, member.name)
        if member.section is None:
            found.append(Key(here, member, section, settable))
        else:
            found += keys(member.section, here, settable and not member.repeated)
    return tuple(found)


def _member(name: str, annotation: Any, default: Any = msgspec.NODEFAULT) -> Member:
    section, repeated = _section(annotation)
    kind, extra, described = _unwrapped(inspect.type_info(annotation))
    secret = isinstance(kind, inspect.StructType) and kind.cls is Secret
    unit = extra.get("unit", "")
    table = _table(annotation)
    return Member(
        name=name,
        annotation=annotation,
        default=default,
        section=section,
        repeated=repeated,
        optional=section is not None and default is None,
        description=described.get("description", ""),
        unit=unit,
        restart=extra.get("restart", ""),
        examples=tuple(described.get("examples", ())),
        secret=secret,
        table=None if table is None else (_member(name, table[0]), _member(name, table[1])),
        allowed="a reference to a secret" if secret else _allowed(kind, unit),
        hint=_HINTS.get("secret" if secret else unit, ""),
    )


def _section(annotation: Any) -> tuple[type[Document] | None, bool]:
    """The section that a type is of, and whether there may be several."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Annotated, typing.Union, types.UnionType):
        return next((found for found in map(_section, arguments) if found[0] is not None), (None, False))
    if origin is tuple:
        return _section(arguments[0])[0], True
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation, False
    return None, False


def _table(annotation: Any) -> tuple[Any, Any] | None:
    """The types of keys and values, of a type that is or may be a table."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Annotated, typing.Union, types.UnionType):
        return next(filter(None, map(_table, arguments)), None)
    return arguments if origin is dict else None


def _unwrapped(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any], dict[str, Any]]:
    """The type itself, without None, and all that was said with it on the way."""
    extra: dict[str, Any] = {}
    described: dict[str, Any] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            more, also = _said(kind)
            extra, described = more | extra, also | described
            kind = kind.type
            continue
        some = [one for one in kind.types if not isinstance(one, inspect.NoneType)] if _is_union(kind) else []
        if len(some) != 1:
            return kind, extra, described
        kind = some[0]


def _said(metadata: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return metadata.extra or {}, metadata.extra_json_schema or {}


def _is_union(kind: inspect.Type) -> typing.TypeGuard[inspect.UnionType]:
    return isinstance(kind, inspect.UnionType)


def _allowed(kind: inspect.Type, unit: str) -> str:
    """In words; empty where the type needs more words than fit."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            noun = "a duration" if unit == "s" else "a number" if isinstance(kind, inspect.FloatType) else "an integer"
            return noun + _bounds(kind, " s" if unit == "s" else "")
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return _TEXTS.get(unit) or "a string" + _lengths(kind)
        case inspect.LiteralType():
            return f"one of {', '.join(str(value) for value in kind.values)}"
        case inspect.VarTupleType() | inspect.ListType():
            return "a list of strings" if isinstance(kind.item_type, inspect.StrType) else "a list"
        case inspect.DictType():
            return "a table of weights" if unit == "target" else "a table"
        case inspect.UnionType():
            return " or ".join(_allowed(_unwrapped(one)[0], unit) for one in kind.types)
        case _:
            return ""


def _bounds(kind: inspect.IntType | inspect.FloatType, unit: str) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {_number(kind.ge)}{unit} to {_number(kind.le)}{unit}"
    words = {"of at least": kind.ge, "above": kind.gt, "of at most": kind.le, "below": kind.lt}
    said = [f"{word} {_number(bound)}{unit}" for word, bound in words.items() if bound is not None]
    return f" {' and '.join(said)}" if said else ""


def _lengths(kind: inspect.StrType) -> str:
    if kind.max_length is not None:
        return f" of {kind.min_length or 0} to {kind.max_length} characters"
    return " that is not empty" if kind.min_length else ""


def _number(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() else str(bound)
