"""All operators in Triton, as a model meets them."""

import pytest
import torch

from cortexd_kernels import self_check
from cortexd_kernels.fused import FusedOperators
from cortexd_kernels.operators import Norm, Operators, Packed
from tests.kernels.fused.broad import fused


def test_they_pass_the_check_that_every_device_is_put_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(self_check, "_V", 97)  # the interpreter takes a minute for a head of thousands
    operators: Operators = fused()
    begun: list[str] = []
    assert self_check.check(operators, torch.device("cpu"), torch.float16, begun.append).problem == ""
    assert begun[-1] == "sample"


def test_a_step_that_wants_no_logits_starts_no_kernel_for_them():
    norm, head = Norm(torch.ones(64), torch.zeros(64)), Packed.single(torch.ones(32, 64))
    none = torch.empty(0, dtype=torch.int32)
    assert FusedOperators().logits(torch.ones(3, 64), none, norm, head, torch.float32).shape == (0, 32)
