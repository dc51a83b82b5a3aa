"""Machines and installations that a test makes up."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from cortexd.doctor.finding import Finding
from cortexd.doctor.place import Answer, Place

NOBODY = 65534


def place(root: Path, answers: dict[str, Answer] | None = None, **environment: str) -> Place:
    """`answers` are those of commands that begin so; of others there are none. Packages lie in `root`/packages."""

    def ask(command: Sequence[str], /, *, patience: float = 0.0) -> Answer | None:
        line = " ".join(command)
        return next((answer for begin, answer in (answers or {}).items() if line.startswith(begin)), None)

    def package(name: str) -> Path | None:
        folder = root / "packages" / name
        return folder if folder.is_dir() else None

    return Place(environment={"HOME": str(root / "home"), **environment}, root=root, ask=ask, package=package)


def levels(found: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in found]


def only(found: Iterable[Finding]) -> Finding:
    (finding,) = found
    return finding


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """A user without rights, and a folder that such a one may look into, but not write to; `locked` in it is closed altogether."""
    privileged = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="cortexd-") as name:
        folder = Path(name)
        (folder / "locked").mkdir(mode=0o000)
        folder.chmod(0o555)
        if privileged:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if privileged:
                os.seteuid(0)
            folder.chmod(0o700)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
