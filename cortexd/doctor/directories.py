"""The folders that cortexd writes to."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cortexd.doctor.finding import Finding, note, ok, problem, warning
from cortexd.doctor.place import Place
from cortexd.sizes import size

_LITTLE, _NONE = 2 * 10**9, 64 * 2**20  # bytes on a disk


def directories(place: Place) -> Iterator[Finding]:
    paths = place.paths
    yield directory("data directory", paths.data)
    yield directory("cache directory", paths.cache)
    yield from runnable("cache directory", paths.cache)
    yield runtime(paths.runtime)
    yield temporary(place)


def directory(check: str, path: Path, free: int | None = None) -> Finding:
    """`free` bytes of disk are what a test makes up."""
    there = nearest(path)
    if not is_writable(there):
        what = "cannot be written to" if there == path else f"is not there, and cannot be made in {there}"
        return problem(check, f"{path} {what} by this user ({_whose(there)}).", _advice(path, there))
    free = shutil.disk_usage(there).free if free is None else free
    shown = f"{path}, {'' if there == path else 'not made yet, '}{size(free)} free"
    if free < _NONE:
        return problem(check, f"{shown}.", "Free some space: what is learnt and configured cannot be kept.")
    if free < _LITTLE:
        return warning(check, f"{shown}.", "Free some space, or give [cache] disk and sessions less.")
    return ok(check, f"{shown}.")


def runnable(check: str, path: Path, flags: Callable[[Path], int] | None = None) -> Iterator[Finding]:
    """Compiled kernels are loaded from there. `flags` gives those of a file system."""
    there = nearest(path)
    if (_flags(there) if flags is None else flags(there)) & os.ST_NOEXEC:
        yield warning(
            check,
            f"{path} is on a file system mounted noexec, from which no compiled kernel can be loaded.",
            "Set XDG_CACHE_HOME, or CacheDirectory= of the unit, to a place that is not.",
        )


def runtime(path: Path) -> Finding:
    if not is_writable(there := nearest(path)):
        return note("runtime directory", f"{path} cannot be used by this user ({_whose(there)}).")
    return ok("runtime directory", f"{path}{'' if there == path else ', not made yet'}.")


def temporary(place: Place) -> Finding:
    """Compilers write there."""
    try:
        with tempfile.TemporaryFile(dir=place.environment.get("TMPDIR") or None):
            return ok(
                "temporary files", f"{place.environment.get('TMPDIR') or tempfile.gettempdir()} can be written to."
            )
    except OSError as error:
        return warning(
            "temporary files",
            f"No temporary file can be made ({error.strerror}).",
            "Set TMPDIR to a directory with room that this user may write to: no kernel can be compiled without.",
        )


def nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that is there, as far as this user can see."""
    for place in (path, *path.parents):
        try:
            if place.exists():
                return place
        except OSError:  # below a folder that is closed to this user
            continue
    return Path("/")


def is_writable(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def _whose(path: Path) -> str:
    """Whose it is, and who asks."""
    status = path.stat()
    kind = "" if path.is_dir() else "no directory, "
    return f"{kind}mode {status.st_mode & 0o7777:04o} of user {status.st_uid}, asked by user {os.geteuid()}"


def _advice(path: Path, there: Path) -> str:
    if not there.is_dir():
        return f"Move {there} away."
    if os.geteuid() in (0, there.stat().st_uid):
        return f"Make {there} writable: `chmod u+rwx {there}`, or mount its file system for writing."
    if there == path:
        return f"Run cortexd as the user it belongs to, or `chown -R` {path} to the user who runs it."
    return f"Make {path} as an administrator, for the user who runs cortexd."


def _flags(path: Path) -> int:
    return os.statvfs(path).f_flag
