"""What lies in the models directories, known from names and headers alone."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cortexd.checkpoints.header import read_header
from cortexd.checkpoints.identity import files_of, identity_of
from cortexd.checkpoints.shape import ModelShape, identify
from cortexd.errors import CortexdError

_ENDINGS = (".pth", ".safetensors")
_CONFIG = "config.json"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint on disk; `problem` says why it would not load."""

    path: Path
    size: int
    modified: int  # seconds since the epoch
    weights: str  # changes when the bytes do
    shape: ModelShape | None
    problem: str | None

    @property
    def architecture(self) -> str:
        return f"rwkv{self.shape.version}" if self.shape is not None else ""

    @property
    def name(self) -> str:
        return self.path.name if self.path.suffix not in _ENDINGS else self.path.stem


class Scanner:
    """Remembers what it read, so that a look at unchanged directories reads no header."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str], Found] = {}
        self._entries: dict[Path, list[Path]] = {}  # by directory, as last seen

    def look(self, directories: Sequence[Path]) -> list[Found]:
        """Every checkpoint in these directories, by name; of two with one name, the one in the earlier directory."""
        found: dict[str, Found] = {}
        for directory in directories:
            for path in self._candidates(directory):
                checkpoint = self.examine(path)
                if checkpoint is not None:
                    found.setdefault(checkpoint.name, checkpoint)
        return [found[name] for name in sorted(found)]

    def examine(self, path: Path) -> Found | None:
        """One checkpoint; None where there is none (any more)."""
        try:
            files = files_of(path)
            stats = [file.stat() for file in files]
            identity = identity_of(path)
        except OSError:
            return None
        key = (str(path), identity)
        if key not in self._read:
            shape, problem = _describe(path)
            self._read[key] = Found(
                path=path,
                size=sum(stat.st_size for file, stat in zip(files, stats, strict=True) if file.suffix in _ENDINGS),
                modified=int(max(stat.st_mtime for stat in stats)),
                weights=identity,
                shape=shape,
                problem=problem,
            )
        return self._read[key]

    def _candidates(self, directory: Path) -> list[Path]:
        """A directory that is not there yet holds nothing yet; one that cannot be read at the moment, what it held before."""
        try:
            entries = sorted(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        except OSError:
            return self._entries.get(directory, [])
        self._entries[directory] = [entry for entry in entries if _is_candidate(entry)]
        return self._entries[directory]


def _is_candidate(entry: Path) -> bool:
    if entry.name.startswith("."):
        return False
    try:
        return (entry.suffix in _ENDINGS and entry.is_file()) or (entry / _CONFIG).is_file()
    except OSError:  # lost+found, say
        return False


def _describe(path: Path) -> tuple[ModelShape | None, str | None]:
    try:
        shape = identify(read_header(path))
    except CortexdError as error:
        return None, error.message
    return msgspec.structs.replace(shape, origins={}), None  # where its tensors lie is nothing to remember
