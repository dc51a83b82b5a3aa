"""Strategies as ChatRWKV writes them, shared out as the `rwkv` package does it."""

import pytest

from cortexd.strategies import Segment, described, parse, plan


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("cuda fp16", [25]),
        ("cuda fp16 *6 -> cpu fp32 *1", [6, 19]),
        ("cuda fp16 *10 -> cpu fp32", [10, 15]),
        ("cuda fp16 -> cpu fp32 *1", [24, 1]),
        ("cuda:0 fp16 -> cuda:1 fp16", [12, 13]),
        ("cuda fp16 *30 -> cpu fp32 *3", [25]),
        ("cuda fp16 *3 -> cuda:1 bf16 *2 -> cpu fp32", [3, 2, 20]),
        ("cuda fp16 *0+ -> cpu fp32 *1", [24, 1]),
        ("cuda fp16 *10+", [25]),
    ],
)
def test_layers_are_shared_out_as_the_official_package_does(text: str, counts: list[int]):
    stretches = plan(parse(text), 24)
    assert [stretch.end - stretch.first for stretch in stretches] == counts
    assert [stretch.first for stretch in stretches] == [sum(counts[:i]) for i in range(len(counts))]


def test_what_is_streamed_comes_after_what_stays():
    (only,) = plan(parse("cuda fp16 *10+"), 24)
    assert (only.first, only.resident, only.end) == (0, 10, 25)
    first, last = plan(parse("cuda fp16 *0+ -> cpu fp32 *1"), 24)
    assert (first.resident, first.end, last.resident, last.end) == (0, 24, 25, 25)


def test_official_names_of_quantised_weights_are_understood():
    assert [segment.dtype for segment in parse("cuda fp16i8 *3 -> cpu bf16i8")] == ["int8", "int8"]


def test_every_device_computes_in_int4():
    first, second = plan(parse("cuda:0 int4 *3+ -> cpu int4 *2"), 8)
    assert (first.dtype, second.dtype) == ("int4", "int4")


def test_a_device_without_a_number_is_the_first():
    assert parse("cuda int8 *3 -> cuda:1 bf16") == (Segment("cuda:0", "int8", 3), Segment("cuda:1", "bf16"))


def test_states_may_be_kept_in_half_the_bytes_on_a_gpu():
    first, last = plan(parse("cuda fp16 *3 states fp16 -> cuda:1 bf16"), 4)
    assert (first.states, last.states) == ("fp16", "fp32")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cuda fp16 states bf16", "'cuda fp16 states bf16' is no part of a strategy"),
        ("cuda fp16 -> cpu fp32 states fp16", "'states fp16' has no meaning after 'cpu'"),
        ("", "'' is no part of a strategy"),
        ("cuda  fp16", "'cuda  fp16' is no part of a strategy"),
        ("tpu fp16", "'tpu fp16' is no part of a strategy"),
        ("cuda fp16 -> ", "'' is no part of a strategy"),
        ("cuda fp16 *x", "'cuda fp16 *x' is no part of a strategy"),
        ("cuda fp64", "'fp64' is no number format"),
        ("cuda fp16 *1+ -> cuda:1 fp16 *1+", "'+' can be written only once"),
        ("cpu fp32 *3+", "'+' has no meaning after 'cpu'"),
    ],
)
def test_what_is_no_strategy_is_told_in_one_sentence(text: str, told: str):
    with pytest.raises(ValueError) as raised:
        parse(text)
    assert told in str(raised.value)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cuda fp16", "layers 0–23 and the head on cuda:0 in fp16"),
        ("cuda fp16 *1 -> cpu bf16", "layers 0 on cuda:0 in fp16, 1–23 and the head on cpu in bf16"),
        ("cuda fp16 -> cpu bf16 *1", "layers 0–23 on cuda:0 in fp16, the head on cpu in bf16"),
        ("cuda fp16 states fp16", "layers 0–23 and the head on cuda:0 in fp16 with states in fp16"),
        ("cuda fp16 *20+", "layers 0–23 and the head on cuda:0 in fp16 (4 of them streamed)"),
    ],
)
def test_a_plan_reads_well(text: str, said: str):
    assert described(plan(parse(text), 24)) == said
