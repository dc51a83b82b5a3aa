"""The harness that compiles kernels for GPUs that are not there."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from tests.kernels.fused.compiling import TARGETS, Resources, compiled, dtypes, fitting


@triton.jit
def _doubled(x, y, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at) * 2)


@triton.jit
def _product(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tile = at[:, None] * BLOCK + at[None, :]
    loaded = tl.load(x + tile)
    tl.store(y + tile, tl.dot(loaded, loaded, input_precision="ieee").to(y.dtype.element_ty))


@triton.jit
def _shares(x, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    loaded = tl.load(x + at)
    tl.store(x + at, loaded / tl.sum(loaded))


@triton.jit
def _misshapen(x):
    tl.store(x + tl.arange(0, 64), tl.arange(0, 32))


def doubled(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    _doubled[(x.numel() // 64,)](x, y, BLOCK=64, num_warps=1)
    return y


def product(x: Tensor, size: int) -> None:
    _product[(1,)](x, torch.empty_like(x), BLOCK=size, num_warps=4)


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    x = torch.empty(128, 128, dtype=dtype)
    yield "small", lambda: (doubled(x), product(x, 32))
    if dtype is torch.bfloat16:  # 256 numbers in a thread that has 255 registers
        yield "large", lambda: _shares[(1,)](torch.empty(8192), BLOCK=8192, num_warps=1)


def wrong_cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "misshapen", lambda: _misshapen[(1,)](torch.empty(64, dtype=dtype))


def test_here_kernels_are_interpreted():
    assert torch.equal(doubled(torch.arange(128.0)), 2 * torch.arange(128.0))


def test_the_kernels_of_every_launch_are_found_on_every_target():
    found = {(kernel.name, kernel.target, kernel.dtype) for kernel in compiled(__name__) if kernel.case == "small"}
    assert found == {
        (name, target, dtype) for name in ("_doubled", "_product") for target in TARGETS for dtype in dtypes(target)
    }
    assert {target for _, target, _ in found} == set(TARGETS)


def test_registers_spills_and_shared_memory_are_told():
    for kernel in compiled(__name__):
        assert 0 < kernel.registers <= 512
        assert (kernel.spilled > 0) == (kernel.name == "_shares" and kernel.target != "gfx942"), kernel
        assert (kernel.shared > 0) == (kernel.name == "_product"), kernel
    large = sum("bfloat16" in dtypes(target) for target in TARGETS)
    assert len(compiled(__name__)) == 2 * sum(len(dtypes(target)) for target in TARGETS) + large


def test_a_kernel_that_does_not_compile_fails_with_the_compilers_message():
    with pytest.raises(AssertionError, match=r"(?s)tl\.store\(x \+ tl\.arange.*64.*32"):
        compiled(__name__, "wrong_cases")


def test_a_kernel_that_asks_for_more_shared_memory_than_a_target_has_is_refused():
    for target, allowed in TARGETS.items():
        kernel = Resources("case", "kernel", target, "float16", registers=64, spilled=0, shared=allowed.shared, warps=4)
        assert fitting([kernel]) == [kernel]
        with pytest.raises(AssertionError, match="more shared memory"):
            fitting([replace(kernel, shared=allowed.shared + 1)])
