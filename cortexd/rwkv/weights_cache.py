"""Prepared weights kept on disk, converted once and mapped ever after. What is damaged or missing costs a conversion, no more."""

import contextlib
import functools
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from cortexd.checkpoints.identity import files_of
from cortexd.checkpoints.shape import ModelShape
from cortexd.rwkv.kept_weights import KeptWeights, write_weights
from cortexd.rwkv.prepare import FORMAT

_LIMIT = 32 * 2**30  # bytes
_ENDING, _FRESH, _UNFINISHED = ".weights", ".fresh", ".part"  # the last after the id of the writing process


class WeightsCache:
    """Kept weights in a private directory: at most `limit` bytes and half of the free disk; the longest unused go first."""

    def __init__(self, directory: Path, limit: int = _LIMIT) -> None:
        self.directory = directory
        self._limit = limit
        self._publishing: threading.Thread | None = None

    def find(self, weights: str, dtype: torch.dtype) -> KeptWeights | None:
        """What is kept for the checkpoint with identity `weights`, computed in `dtype`; None where nothing is."""
        # What is fresh is looked for first: it may get its last name in between.
        for path in (self._fresh(weights, dtype), self._path(weights, dtype)):
            with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
                kept = KeptWeights(path)
                os.utime(path)  # used now
                if path.suffix == _FRESH:  # its writer may have ended before it had brought it to the disk
                    self._bring_to_disk(path)
                return kept
        return None

    def keep(
        self,
        weights: str,
        dtype: torch.dtype,
        shape: ModelShape,
        tensors: Iterable[tuple[str, Tensor]],
        checkpoint: Path,
        expected: int = 0,
    ) -> KeptWeights | None:
        """Write `tensors` as they come, but for those that lie in a file of `checkpoint`; None where it cannot be done.

        `expected` bytes must have room before one of them is made. Nobody finds them before they are published.
        """
        part = self._part(weights, dtype)
        kept: KeptWeights | None = None
        with contextlib.suppress(OSError, ValueError):
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._sweep()
                if expected > (room := self._room()):
                    return None
                own = frozenset(str(file.resolve()) for file in files_of(checkpoint))
                with open(part, "wb", buffering=0, opener=_private) as file:
                    write_weights(file, shape, tensors, own, room)
                kept = KeptWeights(part)
            finally:
                if kept is None:
                    _unlink(part)
        return kept

    def publish(self, kept: KeptWeights) -> None:
        """Once a token has been computed with them: let others find them, and bring them to the disk.

        Until they are there, their name holds for this run of the kernel alone: after a power cut it might stand for half a file.
        """
        key = kept.path.name.partition(".")[0]
        fresh = self.directory / f"{key}.{_boot()}{_FRESH}"
        with contextlib.suppress(OSError):
            kept.path.rename(fresh)
            self._bring_to_disk(fresh)

    def settle(self) -> None:
        """Returns when what was published can be found."""
        if self._publishing is not None:
            self._publishing.join()

    def _bring_to_disk(self, fresh: Path) -> None:
        """In a thread of its own."""
        self._publishing = threading.Thread(target=self._sync, args=(fresh,), name="publish weights", daemon=True)
        self._publishing.start()

    def _sync(self, fresh: Path) -> None:
        path = self.directory / f"{fresh.name.partition('.')[0]}{_ENDING}"
        # Another worker may have done it, or the disk be full: then it is converted again.
        with contextlib.suppress(OSError):
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.rename(path)
            self._trim(path)

    def _fresh(self, weights: str, dtype: torch.dtype) -> Path:
        return self._path(weights, dtype).with_suffix(f".{_boot()}{_FRESH}")

    def _part(self, weights: str, dtype: torch.dtype) -> Path:
        return self._path(weights, dtype).with_suffix(f".{os.getpid()}{_UNFINISHED}")

    def _path(self, weights: str, dtype: torch.dtype) -> Path:
        key = hashlib.sha256(f"{FORMAT}/{weights}/{dtype}".encode()).hexdigest()[:32]
        return self.directory / f"{key}{_ENDING}"

    def _room(self) -> int:
        """Bytes that all kept weights together may take."""
        held = sum(path.stat().st_size for path in self._whole())
        return min(self._limit, (shutil.disk_usage(self.directory).free + held) // 2)

    def _trim(self, newest: Path) -> None:
        room = self._room()
        kept = sorted(self._whole(), key=lambda path: (path == newest, path.stat().st_mtime))
        for path in reversed(kept):
            room -= path.stat().st_size
            if room < 0:
                _unlink(path)

    def _whole(self) -> list[Path]:
        return [*self.directory.glob(f"*{_ENDING}"), *self.directory.glob(f"*{_FRESH}")]

    def _sweep(self) -> None:
        """Remove what workers left that ended while they wrote, or before a restart of the machine had brought it to the disk."""
        for part in self.directory.glob(f"*{_UNFINISHED}"):
            writer = part.stem.rpartition(".")[2]
            if not Path(f"/proc/{writer}").exists():
                _unlink(part)
        for fresh in self.directory.glob(f"*{_FRESH}"):
            if fresh.stem.rpartition(".")[2] != _boot():
                _unlink(fresh)


@functools.cache
def _boot() -> str:
    """Which run of the kernel this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
