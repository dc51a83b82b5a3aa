"""Drawing on the device against the engine's own, which is the definition."""

import math
from collections.abc import Callable, Iterator

import msgspec
import pytest
import torch
from torch import Tensor

from cortexd.rwkv.sampling import SamplerState
from cortexd.rwkv.sampling import sample as defined
from cortexd.wire import Sampling
from cortexd_kernels.draws import Draw, packed
from cortexd_kernels.fused.sampling import sample
from tests.kernels.drawing import LOGITS, SETTINGS
from tests.kernels.fused.compiling import compiled

VOCABULARY = 4999  # two blocks, the second not full
REGISTERS = {"_prepare": 72, "_gather": 128, "_draw": 128}


def draw_of(state: SamplerState, slot: int) -> Draw:
    s = state.sampling
    return Draw(
        s.temperature,
        s.top_p,
        s.top_k,
        s.min_p,
        s.presence_penalty,
        s.frequency_penalty,
        s.penalty_decay,
        s.order == "rwkv",
        state.uniform(),
        slot,
        bool(s.logit_bias),
    )


def drawn(logits: Tensor, states: list[SamplerState], slots: list[int], **tables: Tensor) -> list[int]:
    draws = [draw_of(state, slot) for state, slot in zip(states, slots, strict=True)]
    return sample(logits, packed(draws, "cpu"), **tables).tolist()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("sharp", SETTINGS), ("flat", SETTINGS[::3]), ("equal", SETTINGS[1::3]), ("stepped", SETTINGS), ("wide", SETTINGS[2::3])],
    ids=LOGITS,
)  # fmt: skip
def test_the_same_number_draws_the_same_token_under_every_setting(kind: str, settings: list[Sampling]):
    states = [SamplerState(msgspec.structs.replace(s, seed=i)) for i, s in enumerate(settings)]
    logits = torch.stack([LOGITS[kind](VOCABULARY) for _ in states])
    assert drawn(logits, states, list(range(len(states)))) == defined(logits, states)


def test_tokens_that_were_drawn_are_penalised_decay_and_are_remembered_by_slot():
    uncounted = torch.zeros(40, dtype=torch.bool)
    uncounted[7] = True
    ids = frozenset(uncounted.nonzero().flatten().tolist())
    settings = [
        Sampling(presence_penalty=0.4, frequency_penalty=0.3, penalty_decay=0.9, seed=1),
        Sampling(presence_penalty=0.5, frequency_penalty=0.9, penalty_decay=0.5, order="rwkv", top_p=0.9, seed=2),
        Sampling(frequency_penalty=-0.2, logit_bias={3: 2.5, 7: 1.0}, seed=3),
        Sampling(seed=4),
    ]
    states, slots = [SamplerState(s, ids) for s in settings], [2, 0, 5, 1]
    counts, bias = torch.full((6, 40), -1.0), torch.zeros(6, 40)
    bias[5, 3], bias[5, 7] = 2.5, 1.0
    bias[2] = math.nan  # whatever an earlier sequence left
    banned = torch.tensor([i == 11 for i in range(40)])
    for _ in range(6):
        logits = torch.randn(4, 40)
        logits[:, 7] += 1.5
        found = drawn(logits, states, slots, counts=counts, bias=bias, banned=banned, uncounted=uncounted)
        assert found == defined(logits, states, torch.tensor([11]))
    for state, slot in zip(states, slots, strict=True):
        expected = torch.full((40,), -1.0)
        for id, count in state.occurrences.items():
            expected[id] = count
        torch.testing.assert_close(counts[slot], expected)
    assert (counts[[3, 4]] == -1).all()


def test_rows_that_are_masked_or_broken_draw_nothing_and_leave_the_tables_of_others_alone():
    logits = torch.randn(4, 100)
    logits[1] = math.nan
    logits[3, ::2], logits[3, 1::4] = math.inf, -math.inf
    states = [SamplerState(Sampling(frequency_penalty=1.0, seed=i)) for i in range(4)]
    counts = torch.full((5, 100), -1.0)
    masked, broken, good, few = drawn(logits, states, [-1, 1, 2, 3], counts=counts)
    assert (masked, broken) == (-1, -1)
    assert [good, few] == defined(logits[2:], states[2:])
    assert (counts >= 0).nonzero().tolist() == [[2, good], [3, few]]


def test_half_precision_is_drawn_as_the_numbers_it_holds():
    logits = (torch.randn(3, 2 * 300) * 3).half()[:, :300]  # rows of a wider matrix
    states = [SamplerState(Sampling(top_p=p, seed=5)) for p in (1.0, 0.8, 0.2)]
    assert drawn(logits, states, [0, 1, 2]) == defined(logits.float(), states)


def test_every_number_draws_the_token_in_whose_share_it_lies():
    probabilities = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3])
    uniforms = [0.0001, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001, 0.9999]
    draws = packed([Draw(uniform=uniform) for uniform in uniforms], "cpu")
    tokens = sample(probabilities.log().expand(8, 5), draws).tolist()
    assert tokens == [0, 0, 2, 2, 3, 3, 4, 4]


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    # Beside activations in bf16, logits are in fp32.
    logits = torch.empty(32, 65536, dtype=torch.float32 if dtype is torch.bfloat16 else dtype)
    tables, flags = torch.empty(32, 65536), torch.empty(65536, dtype=torch.bool)
    draws = packed([Draw()] * 32, "cpu")
    yield "all of it", lambda: sample(logits, draws, tables, tables, flags, flags)
    yield "nothing added", lambda: sample(logits, draws)


def test_every_kernel_compiles_without_spilling():
    found = compiled(__name__)
    assert {kernel.name for kernel in found} == set(REGISTERS)
    for kernel in found:
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= REGISTERS[kernel.name], kernel
