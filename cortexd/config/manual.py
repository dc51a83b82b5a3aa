"""The page of the documentation that lists every setting."""

import inspect
from collections.abc import Iterator

import msgspec

from cortexd.config.document import Document, Settings
from cortexd.config.keys import RESTARTS, Member, members
from cortexd.config.toml_text import literal

_HEAD = """\
# Configuration

Made from the declarations by `make docs`; do not edit.

One TOML file, by default `cortexd.toml` in `~/.config/cortexd`, or in `/etc/cortexd` for the system's service. Every key
has a default, and [cortexd.example.toml](cortexd.example.toml) shows them all. With `#:schema ./cortexd.schema.json` on the
first line, editors complete and check the file by [cortexd.schema.json](cortexd.schema.json).

A key is also set by a variable, such as `CORTEXD_SERVER__PORT=8080`, or by a flag, such as `--set server.port=8080`; a list
is then written with commas, directories as in `PATH`. Flags win over variables, and these over the file. Keys of
`[[model]]` and `[[alias]]` stand only in the file. `cortexd config check FILE` says everything that is wrong with a file,
`cortexd config show --origin` what is in force, and why.

Durations are written `"90s"`, `"5m"`, `"1h30m"`, or as a number of seconds. Sizes are written `"12 GB"` (powers of 1000),
`"12 GiB"` (of 1024), `"70 %"`, `"auto"`, or as a number of bytes.
"""


def manual() -> str:
    """Markdown: a table for each section."""
    return "\n".join([_HEAD, *_sections(Settings, ())])


def _sections(section: type[Document], path: tuple[str, ...]) -> Iterator[str]:
    for member in members(section):
        if member.section is None:
            continue
        here = (*path, member.name)
        yield f"## `[[{'.'.join(here)}]]`\n" if member.repeated else f"## `[{'.'.join(here)}]`\n"
        yield f"{inspect.getdoc(member.section)}\n"
        yield "| key | default | allowed | meaning |\n| --- | --- | --- | --- |"
        yield from (_row(key) for key in members(member.section) if key.section is None)
        yield ""
        yield from _sections(member.section, here)


def _row(key: Member) -> str:
    default = "" if key.default in (None, msgspec.NODEFAULT) else f"`{literal(key.default, key.unit)}`"
    unit = ", in bytes" if key.unit == "B" else ""
    restart = f" *It {RESTARTS[key.restart]}.*" if key.restart else ""
    cells = (f"`{key.name}`", default, f"{key.allowed}{unit}", f"{key.description}{restart}")
    return f"| {' | '.join(cells)} |"
