"""The compiled kernels by which the CPU computes."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from cortexd.doctor.directories import is_writable, nearest
from cortexd.doctor.finding import Finding, note, ok, warning
from cortexd_kernels.native.library import GENERIC, find_compiler, places, processor_level

_CHECK = "cpu kernels"


def native_kernels(
    level: str | None = None, where: Sequence[Path] | None = None, compiler: str | None = None
) -> Finding:
    """The arguments are what a test makes up; "" is no compiler."""
    level = processor_level() if level is None else level
    compiler = find_compiler() if compiler is None else compiler
    failures: list[str] = []
    where = places() if where is None else where
    for file in where:
        if not os.access(file, os.R_OK, effective_ids=True):
            continue
        if not (failure := _failure(file)):
            return _found(level, file)
        failures.append(failure)
    why = failures[0] if failures else "they are not compiled yet"
    if compiler and is_writable(nearest(where[-1].parent)):
        return note(
            _CHECK,
            f"The native kernels for {level} are not there ({why}); {compiler} compiles them at the first load.",
            "`python -m cortexd_kernels.native` does so now, for everybody who uses this installation.",
        )
    without = f"and {where[-1].parent} cannot be written to" if compiler else "and there is no C++ compiler"
    return warning(
        _CHECK,
        f"There are no native kernels ({why}) {without}, so PyTorch computes, several times as slowly.",
        "Set HOME or XDG_CACHE_HOME to a folder of this user's." if compiler else "Install g++ or clang++.",
    )


def _found(level: str, file: Path) -> Finding:
    if level == GENERIC:
        return note(_CHECK, f"Native kernels in {file.parent}, for a processor without AVX2: expect low speed.")
    return ok(_CHECK, f"Native kernels for {level} in {file.parent}.")


def _failure(file: Path) -> str:
    """Why it cannot be loaded: of another machine, cut off, or on a disk from which nothing may be run."""
    try:
        ctypes.CDLL(str(file))
    except OSError as error:
        return str(error)
    return ""
