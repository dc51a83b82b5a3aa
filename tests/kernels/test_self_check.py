"""Operators that compute wrongly are found out before a model computes with them."""

import pytest
import torch

from cortexd_kernels import self_check
from cortexd_kernels.draws import Draw
from cortexd_kernels.native.layout import FORMATS
from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.self_check import Finding, _Numbers, _sampling, check, drawn
from tests.kernels import broken

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", FORMATS.values(), ids=str)
def test_what_computes_rightly_has_no_problem(dtype: torch.dtype):
    assert check(PlainOperators(), CPU, dtype) == Finding("")


@pytest.mark.parametrize(
    ("operators", "dtype", "told"),
    [
        (broken.ForgetsToWrite, "fp32", "channel_mix of 1 row computes wrongly on cpu in fp32: it is off by"),
        (broken.WritesMaskedStates, "fp32", "wkv of 1 row computes wrongly on cpu in fp32: it is off by"),
        (
            broken.OverflowsInHalf,
            "bf16",
            "wkv with states in fp16 of 1 row computes wrongly on cpu in bf16: it is off by",
        ),
        (broken.LeavesHoles, "bf16", "products of 1 row computes wrongly on cpu in bf16: it is off by nan"),
        (broken.IgnoresScales, "int8", "product_add of 1 row computes wrongly on cpu in int8: it is off by"),
        (broken.IgnoresGroups, "int4", "channel_mix of 1 row computes wrongly on cpu in int4: it is off by"),
        (broken.LosesLongPieces, "fp16", "wkv of 68 rows computes wrongly on cpu in fp16: it is off by"),
        (broken.DrawsTheFirst, "fp32", "sample computes wrongly on cpu in fp32: it is off by"),
    ],
)
def test_what_computes_wrongly_is_named_and_stays_wrong(operators: type[PlainOperators], dtype: str, told: str):
    finding = check(operators(), CPU, FORMATS[dtype])
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
    logits = torch.tensor([[0.1, 0.0, 0.4, 0.2, 0.3]]).log()

    def token(uniform: float, temperature: float = 1.0, top_k: int = 0) -> int:
        return int(drawn(logits, [Draw(temperature=temperature, top_k=top_k, uniform=uniform)]))

    assert [token(uniform) for uniform in (0.0001, 0.0999, 0.1001, 0.4999, 0.5001, 0.7001)] == [0, 0, 2, 2, 3, 4]
    assert [token(uniform, top_k=2) for uniform in (0.0001, 0.57, 0.58)] == [2, 2, 4]  # 4/7 and 3/7 remain
    assert token(0.9, temperature=0.0) == 2
    assert token(0.9, temperature=0.1) == 2


def test_no_number_that_is_drawn_with_lies_where_rounding_decides():
    exact = _sampling(_Numbers(CPU, torch.float32, torch.float32))(PlainOperators())
    for shift in (-1e-4, 1e-4):
        shifted = [draw._replace(uniform=draw.uniform + shift) for draw in self_check._DRAWS]
        logits = _Numbers(CPU, torch.float32, torch.float32)(len(shifted), self_check._V, scale=3.0)
        assert torch.equal(exact[0].argmax(1), drawn(logits, shifted))
