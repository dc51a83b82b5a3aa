"""Refusing a checkpoint: one sentence that names the file and says what to do."""

from cortexd.errors import UnsupportedCheckpoint

AGAIN = "copy or download it again"


def damaged(file: str, what: str) -> UnsupportedCheckpoint:
    """The file is not what its format promises."""
    return UnsupportedCheckpoint(f"{file} is damaged or incomplete: {what}; {AGAIN}.")


def unsupported(file: str, what: str) -> UnsupportedCheckpoint:
    """The file may be sound, but cortexd does not run it; `what` continues "FILE …"."""
    return UnsupportedCheckpoint(f"{file} {what}.")


def quoted(text: str) -> str:
    """A name out of a file nobody vouches for, safe and short enough to print."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")


def printable(name: str) -> str:
    """A file name as it may stand in a sentence, whatever bytes it is made of."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
