"""Operators that compute wrongly are found out before a model computes with them."""

import pytest
import torch

from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.self_check import NUMBERS, Finding, check, drawn
from tests.kernels import broken

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", NUMBERS.values(), ids=str)
def test_what_computes_rightly_has_no_problem(dtype: torch.dtype):
    assert check(PlainOperators(), CPU, dtype) == Finding("")


@pytest.mark.parametrize(
    ("operators", "dtype", "told"),
    [
        (broken.ForgetsToWrite, "fp32", "channel_mix of 1 row computes wrongly on cpu in fp32: it is off by"),
        (broken.WritesMaskedStates, "fp32", "wkv of 1 row computes wrongly on cpu in fp32: it is off by"),
        (broken.LeavesHoles, "bf16", "products of 1 row computes wrongly on cpu in bf16: it is off by nan"),
        (broken.IgnoresScales, "int8", "product_add of 1 row computes wrongly on cpu in int8: it is off by"),
        (broken.LosesLongPieces, "fp16", "wkv of 72 rows computes wrongly on cpu in fp16: it is off by"),
        (broken.DrawsTheFirst, "fp32", "sample computes wrongly on cpu in fp32: it is off by"),
    ],
)
def test_what_computes_wrongly_is_named_and_stays_wrong(operators: type[PlainOperators], dtype: str, told: str):
    finding = check(operators(), CPU, NUMBERS[dtype])
    assert finding.problem.startswith(told)
    assert not finding.passing


def test_what_cannot_be_computed_may_be_another_time():
    finding = check(broken.DoesNotCompile(), CPU, torch.float32)
    told = "product_add of 1 row cannot be computed on cpu: RuntimeError: ptxas has no sm_120"
    assert finding == Finding(told, passing=True)


def test_what_is_computed_is_told_before():
    begun: list[str] = []
    check(broken.DoesNotCompile(), CPU, torch.float32, begun.append)
    assert begun[0] == "shift_mix of 1 row"
    assert begun[-1] == "product_add of 1 row"


def test_tokens_are_drawn_as_they_are_defined():
    probabilities = torch.tensor([[0.1, 0.0, 0.4, 0.2, 0.3]])
    draw = [1.0, 1.0, 0, 0, 0, 0, 1.0, 0, 0.0, 0, 0]

    def token(temperature: float, top_k: int, uniform: float) -> int:
        row = [temperature, *draw[1:2], top_k, *draw[3:8], uniform, *draw[9:]]
        return int(drawn(probabilities.log(), torch.tensor([row], dtype=torch.float64)))

    assert [token(1.0, 0, u) for u in (0.0001, 0.0999, 0.1001, 0.4999, 0.5001, 0.7001)] == [0, 0, 2, 2, 3, 4]
    assert token(0.0, 0, 0.9) == 2
    assert [token(1.0, 2, u) for u in (0.0, 0.57, 0.58)] == [2, 2, 4]  # 4/7 and 3/7 remain
    assert token(0.1, 0, 0.9) == 2
