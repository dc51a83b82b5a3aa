"""Whether the fused operators compute rightly on a device, as it was found out once: kept on disk, told without PyTorch.

What is damaged, or of another release of the kernels, another driver or device, is no verdict.
"""

import contextlib
from pathlib import Path

import msgspec

from cortexd_kernels.files import write_whole
from cortexd_kernels.hardware import Hardware
from cortexd_kernels.release import folder

_AGAIN = 3600.0  # seconds
_ENDING = ".verdict.json"


class Verdict(msgspec.Struct, frozen=True):
    """On the device of this name, with weights in `dtype` ("fp16"): `problem` is a sentence, "" where all is well.

    `when` is in seconds since the epoch. A problem is `passing` where nothing wrong was computed: a crash, a time-out or an
    exception may have come from a GPU that others had filled, or kept busy.
    """

    device: str
    dtype: str
    problem: str
    when: float
    passing: bool = False

    def stands(self, now: float) -> bool:
        """Whether to believe it. One that may pass is tried again after an hour: not at each load, which would wait for it, but a
        device must not stay slow for good because it was once too busy.
        """
        return not self.passing or 0.0 <= now - self.when < _AGAIN


class _Kept(msgspec.Struct, frozen=True):
    hardware: Hardware
    verdict: Verdict


class Verdicts:
    """Of this release, in `cache`; without one nothing is kept, as where it cannot be written."""

    def __init__(self, cache: Path | None) -> None:
        self._folder = None if cache is None else folder(cache)

    def find(self, hardware: Hardware, dtype: str) -> Verdict | None:
        if self._folder is None or (kept := _read(self._path(self._folder, hardware, dtype))) is None:
            return None
        return kept.verdict if (kept.hardware, kept.verdict.dtype) == (hardware, dtype) else None

    def keep(self, hardware: Hardware, verdict: Verdict) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):  # found out anew, then
                path = self._path(self._folder, hardware, verdict.dtype)
                write_whole(path, msgspec.json.encode(_Kept(hardware, verdict)))

    def _path(self, folder: Path, hardware: Hardware, dtype: str) -> Path:
        return folder / f"{hardware.key}-{dtype}{_ENDING}"


def kept_verdicts(cache: Path) -> list[Verdict]:
    """The newest for each device and dtype, by name: those of an older driver are of no use any more."""
    found: dict[tuple[str, str], Verdict] = {}
    for path in folder(cache).glob(f"*{_ENDING}"):
        if (kept := _read(path)) is not None:
            key = (kept.verdict.device, kept.verdict.dtype)
            if key not in found or found[key].when < kept.verdict.when:
                found[key] = kept.verdict
    return [found[key] for key in sorted(found)]


def _read(path: Path) -> _Kept | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return _decode(path.read_bytes())
    return None


_decode = msgspec.json.Decoder(_Kept).decode
