"""What lies in the models directories, known from names and headers alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from cortexd.checkpoints.header import read_header
from cortexd.checkpoints.shape import identify
from cortexd.errors import CortexdError

_ENDINGS = (".pth", ".safetensors")
_CONFIG = "config.json"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint on disk; `problem` says why it would not load."""

    path: Path
    size: int
    modified: int  # seconds since the epoch
    weights: str  # changes when the bytes do
    architecture: str
    problem: str | None

    @property
    def name(self) -> str:
        return self.path.name if self.path.suffix not in _ENDINGS else self.path.stem


class Scanner:
    """Remembers what it read, so that a look at unchanged directories reads no header."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str], Found] = {}

    def look(self, directories: Sequence[Path]) -> list[Found]:
        """Every checkpoint in these directories, by name; of two with one name, the one in the earlier directory."""
        found: dict[str, Found] = {}
        for directory in directories:
            for path in _candidates(directory):
                checkpoint = self.examine(path)
                if checkpoint is not None:
                    found.setdefault(checkpoint.name, checkpoint)
        return [found[name] for name in sorted(found)]

    def examine(self, path: Path) -> Found | None:
        """One checkpoint; None where there is none (any more)."""
        try:
            files = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
            stats = [file.stat() for file in files]
        except OSError:
            return None
        identity = ";".join(f"{s.st_ino}:{s.st_size}:{s.st_mtime_ns}" for s in stats)
        key = (str(path), identity)
        if key not in self._read:
            architecture, problem = _describe(path)
            self._read[key] = Found(
                path=path,
                size=sum(stat.st_size for file, stat in zip(files, stats, strict=True) if file.suffix in _ENDINGS),
                modified=int(max(stat.st_mtime for stat in stats)),
                weights=identity,
                architecture=architecture,
                problem=problem,
            )
        return self._read[key]


def _candidates(directory: Path) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:  # a directory that is not there yet holds nothing yet
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if (entry.suffix in _ENDINGS and entry.is_file()) or (entry / _CONFIG).is_file():
            yield entry


def _describe(path: Path) -> tuple[str, str | None]:
    try:
        return f"rwkv{identify(read_header(path)).version}", None
    except CortexdError as error:
        return "", error.message
