"""Settings that hypothesis makes up: of every key that is declared, within its bounds."""

import math
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

from cortexd.config import Alias, Model, Settings, settings_from_document
from cortexd.config.document import Document
from cortexd.config.keys import Member, members

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
_TARGETS = st.builds("to {}{}".format, st.text("ab c\"'.\n", max_size=9), st.sampled_from(["", "@1", "@42"]))
_BIG = 2**62
_REQUIRED: dict[type[Document], tuple[str, ...]] = {Model: ("name",), Alias: ("name", "to")}


def settings() -> st.SearchStrategy[Settings]:
    return _section(Settings).map(settings_from_document)


def _section(section: type[Document]) -> st.SearchStrategy[dict[str, Any]]:
    """Some keys are left out."""
    fields = {member.name: _member(member) for member in members(section)}
    required = {name: fields.pop(name) for name in _REQUIRED.get(section, ())}
    return st.fixed_dictionaries(required, optional=fields)


def _member(member: Member) -> st.SearchStrategy[Any]:
    if member.section is None:
        return _value(inspect.type_info(member.annotation), member)
    one = _section(member.section)
    return st.lists(one, max_size=3).map(_with_names_of_their_own) if member.repeated else one


def _with_names_of_their_own(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for index, section in enumerate(sections):
        kind = "alias" if "to" in section else "model"
        section["name"] = f"{kind}{index}{section['name'].replace('@', '')[:100]}"
        if "aliases" in section:
            section["aliases"] = [f"{index}.{count}{alias}" for count, alias in enumerate(section["aliases"])]
        if isinstance(section.get("to"), dict):
            section["to"]["to some"] = 1
    return sections


def _value(kind: inspect.Type, member: Member) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.Metadata():
            return _value(kind.type, member)
        case inspect.UnionType():
            return st.one_of([_value(one, member) for one in kind.types])
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(-_BIG if kind.ge is None else int(kind.ge), _BIG if kind.le is None else int(kind.le))
        case inspect.FloatType():
            low, high = (kind.gt if kind.ge is None else kind.ge), (kind.lt if kind.le is None else kind.le)
            return st.floats(low, high, exclude_min=kind.gt is not None, allow_nan=False, allow_infinity=False).filter(
                math.isfinite
            )
        case inspect.StrType() if member.unit == "size":
            return st.sampled_from(["auto", "70 %", "12 GB", "0", "12.5GiB"])
        case inspect.StrType() if member.unit == "target":
            return _TARGETS
        case inspect.DictType():
            return st.dictionaries(_value(kind.key_type, member), _value(kind.value_type, member), max_size=3)
        case inspect.StrType():
            return _TEXT.filter(lambda text: len(text) >= (kind.min_length or 0))
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.VarTupleType():
            return st.lists(_value(kind.item_type, member), max_size=3)
        case _:
            raise AssertionError(f"no values are made up for {kind}")
