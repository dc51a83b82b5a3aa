"""What is written of the program that comes from the program itself: `make docs` writes it, the tests compare it."""

from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from cortexd.cli.main import cli
from cortexd.config.example import example
from cortexd.config.manual import manual
from cortexd.config.schema import json_schema_text

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
_BEGIN, _END = "<!-- help -->\n", "<!-- end of help -->"


def generated() -> dict[Path, str]:
    """The files that hold nothing else, with their text."""
    return {
        ROOT / "docs" / "commands.md": f"# Commands\n\n{help_text()}",
        ROOT / "docs" / "configuration.md": manual(),
        ROOT / "docs" / "cortexd.example.toml": example(),
        ROOT / "docs" / "cortexd.schema.json": json_schema_text(),
    }


def help_text() -> str:
    """`--help` of every command."""
    return "\n".join(map(_help, _commands(cli, ())))


def with_help(readme: str) -> str:
    """The README with what `cortexd --help` says today."""
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{_help(())}{_END}{after}"


def _help(names: tuple[str, ...]) -> str:
    command = [*names, "--help"]
    shown = CliRunner().invoke(cli, command, prog_name="cortexd", terminal_width=110).output
    return f"```text\n$ cortexd {' '.join(command)}\n{shown}```\n"


def _commands(command: click.Command, names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """A command and those in it, each by the words that call it."""
    yield names
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (inner := command.get_command(context, name)) is not None:
                yield from _commands(inner, (*names, name))


if __name__ == "__main__":
    for file, text in generated().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    README.write_text(with_help(README.read_text()))
