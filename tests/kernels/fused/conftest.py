"""How Triton's kernels are tested where there is no GPU: twice.

In the interpreter, in this process, on CPU tensors. `@triton.jit` asks whether to interpret when it decorates, also for Triton's
own library when that is imported; so this file imports Triton first, with the flag set, and keeps the flag to this process:
children inherit none. Test modules here import `cortexd_kernels.fused` as any other module, at their top. bfloat16 is wrong in the
interpreter without a word (numpy has none): judge in float32 and float16, in sizes of at most 4 heads and 16 tokens where a
kernel loops over tokens.

Compiled for real, in another process, by `tests.kernels.fused.compiling.compiled(__name__)`.
"""

import sys
from importlib.util import find_spec

import pytest

collect_ignore_glob: list[str] = []

if find_spec("triton") is None:  # it exists for Linux alone
    collect_ignore_glob.append("test_*.py")
else:
    assert "triton" not in sys.modules, "Triton was imported before its interpreter could be chosen"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton

        triton.knobs.runtime.interpret = True
