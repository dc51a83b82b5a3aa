"""What Triton needs of a machine before it can start a kernel: found out without importing it, or PyTorch."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

_COMPILERS = ("gcc", "clang")  # as Triton looks for one where $CC is not set


def toolchain_problem() -> str:
    """What is missing, in one sentence that says what to do; "" where nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: `pip install triton`"
    if "CC" in os.environ:
        if shutil.which(os.environ["CC"]) is None:
            return (
                f"Triton compiles with $CC, and {os.environ['CC']!r} is no program: set it to a C compiler, or unset it"
            )
    elif not any(map(shutil.which, _COMPILERS)):
        return "Triton needs a C compiler to start its kernels: install gcc or clang"
    if not (header := _headers() / "Python.h").is_file():
        return f"Triton needs the headers of Python to start its kernels, and there is no {header}: install python3-dev"
    return ""


def _headers() -> Path:
    """Where Triton looks for them: Debian's own scheme is not where Debian puts them."""
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"])
