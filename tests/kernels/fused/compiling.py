"""Kernels compiled for GPUs on a machine without one, by whatever code launches them.

A test module offers `cases(dtype)`, calls of public functions on CPU tensors of real sizes (`torch.empty` takes no memory until
it is written):

    def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
        yield "prefill", lambda: chunked.recurrence(*(torch.empty(1024, 32, 64, dtype=dtype) for _ in range(6)), ...)

    def test_every_kernel_compiles_without_spilling():
        for kernel in compiled(__name__):
            assert kernel.spilled == 0, kernel
            assert kernel.registers <= {"_outputs": 128}[kernel.name], kernel

`compiled` makes these calls in another process, in some of float16, bfloat16 and float32, once per target, with every launch
replaced by a compilation for just these arguments (Triton's own `warmup`). So nothing is computed there: results are whatever
memory held, and code between launches must not depend on them. It raises with the compiler's message where a kernel does not
compile, or asks for more shared memory than a target has. Autotuned kernels are not supported: they must run to be tuned.

Kernels that need the target in their source ask `tl.target_info.is_cuda()`, which answers for the target compiled for. On sm_80 and
sm_90 `tl.dot` of float32 with `input_precision="ieee"` is computed without tensor cores, is slow to compile and spills from about
64 columns on; "tf32x3" is not and does not. On gfx942 "ieee" has matrix instructions, and there is no "tf32x3".
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Target(NamedTuple):
    backend: str
    architecture: int | str
    lanes: int
    shared: int  # bytes a program may have


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 * 1024),
    "sm_90": Target("cuda", 90, 32, 227 * 1024),
    "gfx942": Target("hip", "gfx942", 64, 64 * 1024),
}
DTYPES = ("float16", "bfloat16", "float32")
# Compiling takes minutes: each target is there, and all dtypes on each where EVERYTHING says so (CI, `make soak`).
REDUCED = {"sm_80": ("float16",), "sm_90": ("bfloat16",), "gfx942": ("float16",)}
EVERYTHING = "CORTEXD_COMPILE_EVERYTHING"


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one target; `spilled` counts registers on gfx942 and bytes on the others."""

    case: str
    name: str
    target: str
    dtype: str
    registers: int
    spilled: int
    shared: int
    warps: int


@cache
def compiled(module: str, cases: str = "cases") -> list[Resources]:
    """All kernels that the `cases` of `module` launch, on every target."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        environment |= {"TRITON_CACHE_DIR": folder, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", __name__, module, cases, str(report)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(done.stderr[-8000:] or f"the compiler ended with {done.returncode}")
        found = [Resources(**fields) for fields in json.loads(report.read_bytes())]
    assert found, f"{module} launches no kernel"
    return fitting(found)


def dtypes(target: str) -> tuple[str, ...]:
    """In which kernels are compiled for a target."""
    return DTYPES if os.environ.get(EVERYTHING) else REDUCED[target]


def fitting(kernels: list[Resources]) -> list[Resources]:
    too_large = [kernel for kernel in kernels if kernel.shared > TARGETS[kernel.target].shared]
    assert not too_large, f"more shared memory than there is: {too_large}"
    return kernels


def _main(module: str, cases: str, report: str) -> None:
    import torch

    torch.set_num_threads(1)
    of = getattr(importlib.import_module(module), cases)
    found: list[dict[str, Any]] = []
    for target in TARGETS:
        with _launches_only_compile(target) as kernels:
            for dtype in dtypes(target):
                for case, call in of(getattr(torch, dtype)):
                    kernels.clear()
                    call()
                    found += [asdict(_resources(kernel, case, target, dtype)) for kernel in kernels.values()]
    Path(report).write_text(json.dumps(found))


class _launches_only_compile:
    """Within it the kernels that are launched are compiled for a target, and put down here by their hash."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __enter__(self) -> dict[str, Any]:
        import triton
        from triton.runtime.jit import JITFunction

        kernels: dict[str, Any] = {}
        self._run = run = JITFunction.run

        def compile_only(function: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
            del warmup
            kernel = run(function, *args, grid=grid, warmup=True, **kwargs)
            kernels[kernel.hash] = kernel
            return kernel

        triton.runtime.driver.set_active(_FakeDriver(self._target))
        JITFunction.run = compile_only
        return kernels

    def __exit__(self, *_: object) -> None:
        from triton.runtime.jit import JITFunction

        JITFunction.run = self._run


class _FakeDriver:
    """As much of a driver as compiling needs. Each target is a device of its own, by which Triton tells compiled kernels apart."""

    def __init__(self, target: str) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return list(TARGETS).index(self._target)

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        target = TARGETS[self._target]
        return GPUTarget(target.backend, target.architecture, target.lanes)

    def map_python_to_cpp_type(self, name: str) -> str:
        return name


def _resources(kernel: Any, case: str, target: str, dtype: str) -> Resources:
    count = _of_amdgcn if TARGETS[target].backend == "hip" else _of_cubin
    metadata = kernel.metadata
    registers, spilled = count(kernel.asm)
    return Resources(case, metadata.name, target, dtype, registers, spilled, metadata.shared, metadata.num_warps)


def _of_amdgcn(asm: Any) -> tuple[int, int]:
    text = asm["amdgcn"]

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])  # pyright: ignore[reportOptionalSubscript]

    return number("vgpr_count"), number("vgpr_spill_count") + number("sgpr_spill_count")


def _of_cubin(asm: Any) -> tuple[int, int]:
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def number(name: str) -> int:
        return int(re.search(rf"{name}:(\d+)", text)[1])  # pyright: ignore[reportOptionalSubscript]

    return number("REG"), number("STACK") + number("LOCAL")


if __name__ == "__main__":
    _main(*sys.argv[1:])
