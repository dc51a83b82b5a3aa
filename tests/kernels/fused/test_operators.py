"""All operators in Triton, as a model meets them."""

import torch

from cortexd_kernels.fused import FusedOperators
from cortexd_kernels.operators import Operators
from cortexd_kernels.self_check import problem_of


def test_they_pass_the_check_that_every_device_is_put_to():
    operators: Operators = FusedOperators()
    assert problem_of(operators, torch.device("cpu"), torch.float16) == ""
