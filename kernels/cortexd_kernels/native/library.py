"""The compiled library: found beside its source, or compiled once into the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cortexd_kernels.files import turn

_HERE = Path(__file__).parent
_MAIN = "native.cpp"
# No -ffast-math: linked into a library it flushes denormals to zero in the whole process, and it lets sums be reordered.
_FLAGS = (
    *("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wno-psabi", "-Wno-maybe-uninitialized"),
)
_LEVELS = {  # what each needs of the processor, the best first; vectors are as wide as the level has them
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"),
    "avx2": ("avx2", "fma", "f16c"),
}
GENERIC = "generic"
_COMPILERS = ("g++", "clang++", "c++")
_PATIENCE = 300  # seconds for a compiler


@dataclass(frozen=True)
class Native:
    """The library, or None and in `description` one sentence that says why; `level` is the instruction set it is built for.

    `build` names its sources, flags and level: another one may compute other last bits.
    """

    library: ctypes.CDLL | None
    level: str
    description: str
    build: str = ""


_opened: dict[tuple[Path | None, str | None], Native] = {}


def open_native(cache: Path | None = None, level: str | None = None) -> Native:
    """`open_library`, once for all callers."""
    if (cache, level) not in _opened:
        _opened[cache, level] = open_library(cache, level)
    return _opened[cache, level]


def do_without(reason: str) -> None:
    """`open_native` finds none from now on, and does not try."""
    _opened[None, None] = _absent(processor_level(), reason)


@functools.cache
def is_expected() -> bool:
    """Whether `open_native` will find a library or can compile one, without doing so."""
    return any(_is_readable(place) for place in places()) or find_compiler() is not None


def places() -> list[Path]:
    """Where `open_native` looks for the library before it compiles one."""
    return [folder / file_name(processor_level()) for folder in filter(None, (_HERE, _user_cache()))]


def open_library(cache: Path | None = None, level: str | None = None, beside: Path = _HERE) -> Native:
    """The library for this processor, or for another `level`; compiled into `cache` where none lies `beside` the source.

    A file that cannot be loaded, of another machine or cut off, is passed over.
    """
    level = level or processor_level()
    name = file_name(level)
    if (brought := _open(beside / name, level, "installed")) is not None:
        return brought
    if (cache := cache or _user_cache()) is None:
        return _absent(level, "there is no directory for them, as this user has no home")
    compiler = find_compiler()
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with turn(cache / "lock"):
            if (kept := _open(cache / name, level, f"kept in {cache}")) is not None:
                return kept
            if compiler is None:
                return _absent(level, "no C++ compiler (g++ or clang++) on PATH")
            build(cache / name, level, compiler)
    except (OSError, subprocess.SubprocessError) as error:
        return _absent(level, _first_error(error))
    return _open(cache / name, level, f"compiled by {compiler}") or _absent(level, "what was compiled does not load")


def build(path: Path, level: str, compiler: str) -> None:
    """Compile the library to `path`, which appears whole or not at all. Raises OSError or subprocess.SubprocessError."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        command = [compiler, *_flags(level), str(_HERE / _MAIN), "-o", part]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
        Path(part).chmod(0o755)  # whoever else uses this installation may load it
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


def build_here() -> Path:
    """Compile the library for this processor beside its source, where every user of this installation finds it.

    Raises OSError or subprocess.SubprocessError.
    """
    level = processor_level()
    compiler = find_compiler()
    if compiler is None:
        raise FileNotFoundError("no C++ compiler (g++ or clang++) on PATH")
    for old in _HERE.glob("native-*.so"):
        if old.name != file_name(level):
            old.unlink()
    if not (path := _HERE / file_name(level)).exists():
        build(path, level, compiler)
    return path


def processor_level() -> str:
    """The best of the levels this processor has all instructions of."""
    flags = _processor_flags()
    return next((level for level, needed in _LEVELS.items() if flags.issuperset(needed)), GENERIC)


def levels(machine: str) -> list[str]:
    """All that a kind of machine may have."""
    return [*_LEVELS, GENERIC] if machine in ("x86_64", "AMD64") else [GENERIC]


def find_compiler() -> str | None:
    """$CXX if it is set, else the first C++ compiler on PATH."""
    return next(filter(shutil.which, filter(None, (os.environ.get("CXX"), *_COMPILERS))), None)


def _open(path: Path, level: str, origin: str) -> Native | None:
    if not _is_readable(path):
        return None
    try:
        return Native(ctypes.CDLL(str(path)), level, f"native kernels, {level}, {origin}", path.stem)
    except OSError:
        return None


def _is_readable(path: Path) -> bool:
    return os.access(path, os.R_OK) and path.stat().st_size > 0


def _absent(level: str, reason: str) -> Native:
    return Native(None, level, f"no native kernels: {reason}; PyTorch computes instead")


def _flags(level: str) -> list[str]:
    return [*_FLAGS, *(f"-m{instructions}" for instructions in _LEVELS.get(level, ()))]


def file_name(level: str) -> str:
    """Of the library for this kind of machine; another one where its sources or flags are others."""
    return f"native-{level}-{platform.machine()}-{_key(level)}.so"


def _key(level: str) -> str:
    digest = hashlib.sha256(" ".join(_flags(level)).encode())
    for source in sorted((*_HERE.glob("*.h"), _HERE / _MAIN)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # another system than Linux
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def _user_cache() -> Path | None:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cortexd" / "native"
    except RuntimeError:  # no home directory is known
        return None


def _first_error(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    lines = [line.strip() for line in str(said).splitlines() if "error" in line]
    return lines[0] if lines else str(error)
