"""What this machine can do at best, measured in the same run."""

import platform
from pathlib import Path
from time import perf_counter

import torch

_SIZE = 256 * 2**20  # bytes: more than any cache
_TRIES = 8


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large copy, the best of some tries."""
    source = torch.ones(_SIZE // 4)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(_TRIES):
        start = perf_counter()
        target.copy_(source)
        best = max(best, 2 * _SIZE / (perf_counter() - start))
    return best


def read_bandwidth() -> float:
    """Bytes read per second by a large sum, the best of some tries: what a decoded token is bound by."""
    source = torch.ones(_SIZE // 4)
    best = 0.0
    for _ in range(_TRIES):
        start = perf_counter()
        source.sum()
        best = max(best, _SIZE / (perf_counter() - start))
    return best


def description() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
