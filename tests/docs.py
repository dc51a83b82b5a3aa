"""What the README says of the program, made from the program itself: `make docs` writes it, the tests compare it."""

from pathlib import Path

from click.testing import CliRunner

from cortexd.cli.main import cli

README = Path(__file__).parent.parent / "README.md"
_BEGIN, _END = "<!-- help -->\n", "<!-- end of help -->"


def help_text() -> str:
    """`--help` of every command, as a part of the README."""
    names = ["", *cli.list_commands(None)]
    parts: list[str] = []
    for name in names:
        command = [*name.split(), "--help"]
        shown = CliRunner().invoke(cli, command, prog_name="cortexd", terminal_width=110).output
        parts.append(f"```text\n$ cortexd {' '.join(command)}\n{shown}```\n")
    return "\n".join(parts)


def with_help(readme: str) -> str:
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{help_text()}{_END}{after}"


if __name__ == "__main__":
    README.write_text(with_help(README.read_text()))
