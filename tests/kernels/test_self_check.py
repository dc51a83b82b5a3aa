"""Operators that compute wrongly are found out before a model computes with them."""

import pytest
import torch
from torch import Tensor

from cortexd_kernels.dispatch import operators_for
from cortexd_kernels.operators import Columns, Packed, Readout, Rows, Streams
from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.self_check import problem_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_computes_rightly_has_no_problem(dtype: torch.dtype):
    assert problem_of(PlainOperators(), CPU, dtype) == ""


class ForgetsToWrite(PlainOperators):
    def channel_mix(self, x: Tensor, mixed: Tensor, key: Packed, value: Columns) -> None:
        pass


class WritesMaskedStates(PlainOperators):
    def wkv(self, streams: Streams, rows: Rows, state: Tensor, readout: Readout) -> Tensor:
        result = super().wkv(streams, rows, state, readout)
        state[-1] += 1
        return result


class LeavesHoles(PlainOperators):
    def products(self, streams: Tensor, packed: Packed) -> tuple[Tensor, ...]:
        results = super().products(streams, packed)
        results[-1][-1, -1] = torch.nan
        return results


class DoesNotCompile(PlainOperators):
    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        raise RuntimeError("ptxas has no sm_120\nand much else to say")


@pytest.mark.parametrize(
    ("operators", "told"),
    [
        (ForgetsToWrite, "channel_mix of 5 rows computes wrongly on cpu in float32"),
        (WritesMaskedStates, "wkv of 5 rows computes wrongly on cpu in float32"),
        (LeavesHoles, "products of 5 rows computes wrongly on cpu in float32"),
        (DoesNotCompile, "product_add of 5 rows cannot be computed on cpu: RuntimeError: ptxas has no sm_120"),
    ],
)
def test_what_computes_wrongly_is_named(operators: type[PlainOperators], told: str):
    assert problem_of(operators(), CPU, torch.float32).startswith(told)


def test_on_the_cpu_the_plain_ones_are_meant():
    operators, problem = operators_for(CPU, torch.float32)
    assert isinstance(operators, PlainOperators)
    assert not problem
