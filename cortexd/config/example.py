"""The example file: every key there is, commented out at its default."""

import textwrap
from collections.abc import Iterator

import msgspec

from cortexd.config.document import Document, Model, Settings
from cortexd.config.inheritance import effective
from cortexd.config.keys import RESTARTS, Member, members
from cortexd.config.toml_text import literal

_WIDTH = 118
_HEAD = """\
The configuration of cortexd: every key there is, commented out at its default. Uncomment what you change.
A key is also set by a variable, such as CORTEXD_SERVER__PORT=8080, or a flag, such as --set server.port=8080.
Flags win over variables, and these over this file. `cortexd config check FILE` says what is wrong with one,
`cortexd config show --origin` what is in force, and why.
"""


def example() -> str:
    """TOML that changes nothing."""
    return "\n".join([*_comment(_HEAD), *_sections(Settings(), (), commented=False), ""])


def _sections(section: Document, path: tuple[str, ...], *, commented: bool) -> Iterator[str]:
    for member in members(type(section)):
        if member.section is None:
            continue
        here = (*path, member.name)
        hidden = commented or member.repeated or member.optional
        inner: Document | None = None if member.repeated else getattr(section, member.name)
        inner = inner or _one(member.section)
        header = f"[[{'.'.join(here)}]]" if member.repeated else f"[{'.'.join(here)}]"
        yield ""
        yield from _comment(inner.__doc__ or "")
        yield f"#{header}" if hidden else header
        for key in members(type(inner)):
            if key.section is None:
                yield from _key(key, getattr(inner, key.name))
        yield from _sections(inner, here, commented=hidden)


def _one(section: type[Document]) -> Document:
    """An array's section as it is where nothing but what must be is said."""
    required = {key.name: key.examples[0] for key in members(section) if key.default is msgspec.NODEFAULT}
    one = section(**required)
    return effective(one, Settings()) if isinstance(one, Model) else one


def _key(key: Member, default: object) -> Iterator[str]:
    said = [key.description, f"({RESTARTS[key.restart]})" if key.restart else ""]
    yield from _comment(" ".join(filter(None, said)))
    yield f"#{key.name} = {literal(key.examples[0] if default is None else default, key.unit)}"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, _WIDTH)]
