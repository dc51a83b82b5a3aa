"""Native drawing against the engine's own, which is the definition."""

import math

import pytest
import torch
from torch import Tensor

from cortexd.rwkv.sampling import SamplerState, sample
from cortexd.wire import Sampling
from cortexd_kernels.native.sampling import Draw
from cortexd_kernels.native.sampling import sample as native_sample
from cortexd_kernels.native.threads import Threads
from tests.kernels.drawing import LOGITS, SETTINGS
from tests.kernels.native_library import native_or_skip


@pytest.fixture
def threads() -> Threads:
    return Threads(native_or_skip(), 2)


def draw_of(state: SamplerState) -> Draw:
    s = state.sampling
    adjustments = [*(s.logit_bias or {}).items()]
    adjustments += [(id, -(s.presence_penalty + n * s.frequency_penalty)) for id, n in state.occurrences.items()]
    return Draw(
        state.uniform(), s.temperature, s.top_p, s.top_k, s.min_p, s.order == "rwkv",
        torch.tensor([id for id, _ in adjustments], dtype=torch.int32),
        torch.tensor([value for _, value in adjustments], dtype=torch.float32),
    )  # fmt: skip


def differences(threads: Threads, logits: Tensor, states: list[SamplerState], banned: Tensor | None = None) -> int:
    native = native_sample(
        threads, logits, [draw_of(s) for s in states], None if banned is None else banned.to(torch.int32)
    )
    return sum(a != b for a, b in zip(native, sample(logits, states, banned), strict=True))


@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize("size", [1, 63, 777, 65536])
def test_the_same_tokens_are_drawn_as_by_the_definition(threads: Threads, kind: str, size: int):
    draws = different = 0
    for step in range(8 if size > 1000 else 25):
        logits = torch.stack([LOGITS[kind](size) for _ in SETTINGS])
        states = [SamplerState(s) for s in SETTINGS]
        for state in states:
            state.step = step * 1000
        different += differences(threads, logits, states)
        draws += len(states)
    # Weights are rounded differently: an edge between two tokens may, very rarely, lie on the other side of the number drawn.
    assert different <= 1 + draws // 100


def test_penalties_and_biases_and_bans_count(threads: Threads):
    sampling = Sampling(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.7, logit_bias={5: 3.0, 6: 2.9})
    state = SamplerState(sampling)
    logits = torch.zeros(1, 100)
    for _ in range(12):
        expected = draw_of(state)
        (token,) = native_sample(threads, logits, [expected], torch.tensor([0], dtype=torch.int32))
        assert sample(logits, [state], torch.tensor([0])) == [token]
        assert token != 0


def test_a_row_is_drawn_the_same_alone_and_beside_others(threads: Threads):
    logits = torch.randn(9, 5000)
    draws = [Draw((i + 0.5) / 9, top_p=0.9) for i in range(9)]
    together = native_sample(threads, logits, draws)
    threads.count = 1
    assert together == [native_sample(threads, logits[i : i + 1], draws[i : i + 1])[0] for i in range(9)]


def test_what_is_not_finite_is_never_drawn(threads: Threads):
    logits = torch.full((3, 130), math.nan)
    logits[0, 77] = 1.0
    logits[1, :100] = math.inf
    logits[2, [3, 120]] = torch.tensor([math.inf, -5.0])
    assert native_sample(threads, logits, [Draw(0.999)] * 3) == [77, -1, 120]


def test_frequencies_are_the_probabilities(threads: Threads):
    logits = torch.tensor([[0.5, 0.3, 0.2, 1e-9]]).log()
    count = 20_000
    draws = [Draw((i + 0.5) / count) for i in range(count)]
    tokens = torch.tensor(native_sample(threads, logits.expand(count, 4).contiguous(), draws))
    assert torch.allclose(torch.bincount(tokens, minlength=4) / count, logits[0].exp(), atol=1e-4)
