"""What this machine can do at best, measured in the same run; and what of it processes hold."""

import contextlib
import functools
import os
import platform
import statistics
from ctypes import c_int64, c_void_p
from pathlib import Path
from time import perf_counter

import psutil
import torch

from cortexd_kernels.native.library import open_native
from cortexd_kernels.native.threads import Threads

_SIZE = 256 * 2**20  # bytes: more than any cache
_TRIES = 8


def cores() -> int:
    """That this process may use, and with it the daemon."""
    return len(os.sched_getaffinity(0))


def read_bandwidth(threads: int) -> float:
    """Bytes read per second by so many threads, the median of some tries: what a decoded token is bound by."""
    source = _source()
    native = _native()
    if native is not None:
        native.count = threads
    torch.set_num_threads(threads)
    times: list[float] = []
    for _ in range(_TRIES):
        start = perf_counter()
        if native is not None:
            native.call("cortexd_read", c_void_p(source.data_ptr()), c_int64(_SIZE))
        else:
            source.sum()
        times.append(perf_counter() - start)
    return _SIZE / statistics.median(times)


def description(threads: int) -> str:
    """`threads` are the daemon's."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    kernels = open_native().build or f"torch {torch.__version__}"
    return f"{names[0] if names else platform.processor()}, {threads} threads, kernels: {kernels}"


def memory_of(pid: int) -> int:
    """Bytes of a process and all below it, shared pages divided among those who share them where the system tells."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total


def processor_time_of(pid: int) -> float:
    """Seconds that a process and all below it have computed."""
    total = 0.0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


@functools.cache
def _source() -> torch.Tensor:
    return torch.ones(_SIZE // 4)


@functools.cache
def _native() -> Threads | None:
    native = open_native()
    return Threads(native) if native.library is not None else None


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
