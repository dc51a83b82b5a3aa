"""Which operators compute on a device: the fused ones where they are seen to compute rightly, else the plain ones."""

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from cortexd_kernels import release
from cortexd_kernels.choices import kept_choices
from cortexd_kernels.examiner import Examiner
from cortexd_kernels.hardware import hardware_of
from cortexd_kernels.operators import Operators
from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.toolchain import toolchain_problem

_TRITONS_OWN = ("TRITON_CACHE_DIR", "TRITON_HOME")  # where a user has it keep what it compiles


def operators_for(
    device: torch.device, dtype: torch.dtype, cache: Path | None = None, alive: Callable[[], None] = lambda: None
) -> tuple[Operators, str]:
    """The best there are for weights of `dtype`, and why they are not the fused ones: "" where they are or none are meant.

    What is found out is kept in `cache`; without one it is found out at each load, which takes minutes, in which `alive` is told of
    each step.
    """
    if device.type == "cpu":
        return PlainOperators(), ""
    if problem := toolchain_problem():
        return PlainOperators(), problem
    keep_compiled(cache)
    if problem := Examiner(cache).verdict(device, dtype, alive=alive).problem:
        return PlainOperators(), problem
    return fused_operators(device, cache), ""


def fused_operators(device: torch.device, cache: Path | None) -> Operators:
    """Those in Triton, as they were found fastest on `device`."""
    return importlib.import_module("cortexd_kernels.fused").FusedOperators(kept_choices(cache, hardware_of(device)))


def keep_compiled(cache: Path | None) -> None:
    """Have this process and its children keep what Triton compiles in `cache`, unless the user has chosen another place.

    To be called before the first kernel is started.
    """
    if cache is None or any(name in os.environ for name in _TRITONS_OWN):
        return
    place = release.folder(cache) / "triton"
    with contextlib.suppress(OSError):  # where nothing can be written, Triton may still do so at home
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        release.used(cache)
        os.environ["TRITON_CACHE_DIR"] = str(place)
