"""Which operators compute on a device: the fused ones where they are seen to compute rightly, else the plain ones."""

import importlib
import shutil

import torch

from cortexd_kernels.operators import Operators
from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.self_check import problem_of


def operators_for(device: torch.device, dtype: torch.dtype) -> tuple[Operators, str]:
    """The best there are for weights of `dtype`, and why they are not the fused ones: "" where they are or none are meant."""
    if device.type == "cpu":
        return PlainOperators(), ""
    fused = fused_operators()
    if isinstance(fused, str):
        return PlainOperators(), fused
    problem = problem_of(fused, device, dtype)
    return (PlainOperators(), problem) if problem else (fused, "")


def fused_operators() -> Operators | str:
    """Those in Triton, or why there are none."""
    try:
        importlib.import_module("triton")
    except ImportError:
        return "Triton is not installed: `pip install triton`"
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "Triton needs a C compiler to start its kernels: install gcc or clang"
    return importlib.import_module("cortexd_kernels.fused").FusedOperators()
