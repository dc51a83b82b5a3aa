"""Which kernels these are: what was found out about others does not hold for them."""

import contextlib
import functools
import hashlib
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_HERE = Path(__file__).parent
_CPU = "native"  # kernels of the CPU, of which nothing is kept here
_UNUSED = 90 * 86400.0  # seconds


def folder(cache: Path) -> Path:
    """Where in the cache directory everything is kept that these kernels have found out on this machine."""
    return cache / "kernels" / release()


def used(cache: Path) -> None:
    """These kernels are; raises nothing where that cannot be put down."""
    with contextlib.suppress(OSError):
        os.utime(folder(cache))


def sweep(cache: Path, now: float) -> None:
    """Remove what other kernels have kept and not used for 90 days."""
    for other in folder(cache).parent.iterdir():
        if other.name != release() and now - other.stat().st_mtime > _UNUSED:
            shutil.rmtree(other, ignore_errors=True)


@functools.cache
def release() -> str:
    """A name that changes with the sources of the kernels, with PyTorch and with Triton."""
    digest = hashlib.sha256("/".join(map(_version, ("torch", "triton"))).encode())
    for source in sorted(_HERE.rglob("*.py")):
        if source.relative_to(_HERE).parts[0] != _CPU:
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
