import math
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, reject, settings
from rwkv.utils import PIPELINE, PIPELINE_ARGS
from torch import Tensor

from cortexd.rwkv.sampling import BrokenLogits, SamplerState, sample
from cortexd.wire import Sampling

WORLD = 65536
FIRST, LAST = 2.0**-53, 1.0 - 2.0**-53  # what `uniform` lies between
NEAR = 1e-6  # nearer than this to an edge, fp32 may decide otherwise than the reference


class TooNear(Exception):
    """The reference cannot tell what fp32 should do."""


class Fixed(SamplerState):
    """A sequence whose next uniform number is known."""

    def __init__(self, sampling: Sampling, number: float) -> None:
        super().__init__(sampling)
        self.number = number

    def uniform(self) -> float:
        return self.number


def draw(logits: Sequence[float] | Tensor, s: Sampling, number: float) -> int:
    (token,) = sample(torch.as_tensor(logits, dtype=torch.float32)[None], [Fixed(s, number)])
    return token


def draw_many(logits: Tensor, s: Sampling, numbers: Sequence[float]) -> list[int]:
    return sample(logits.expand(len(numbers), -1), [Fixed(s, number) for number in numbers])


def nucleus(ranked: np.ndarray, weights: np.ndarray, p: float, near: float) -> int:
    """How many of `ranked` it takes to reach the part `p` of their weight."""
    sums = np.cumsum(weights[ranked])
    goal = p * sums[-1]
    if np.any((np.abs(sums - goal) < near * sums[-1]) & (sums != goal)):
        raise TooNear
    return int(np.searchsorted(sums, goal)) + 1


def reference(logits: Sequence[float] | Tensor, s: Sampling, near: float = NEAR) -> dict[int, float]:
    """Probabilities of all that can be drawn, slow and plain, in float64."""
    x = torch.as_tensor(logits, dtype=torch.float32).double().numpy()
    ranked = np.lexsort((np.arange(len(x)), -x))  # the largest first, of equals the one with the lowest id
    weights = np.exp((x - x.max()) / (s.temperature if s.order == "openai" else 1.0))
    limit = s.top_k or len(x)
    if s.order == "openai":
        ranked = ranked[:limit]
        if s.top_p < 1:
            ranked = ranked[: nucleus(ranked, weights, s.top_p, near)]
    else:
        if s.top_p < 1:
            edge = x[ranked[nucleus(ranked, weights, s.top_p, near) - 1]]
            ranked = ranked[x[ranked] >= edge]
        ranked = ranked[:limit]
    if s.min_p:
        edge = x.max() + (s.temperature if s.order == "openai" else 1.0) * math.log(s.min_p)
        if np.any((np.abs(x - edge) < near) & (x != edge)):
            raise TooNear
        ranked = ranked[x[ranked] >= edge]
    ids = np.sort(ranked)
    final = np.exp((x[ids] - x.max()) / s.temperature)
    return dict(zip(ids.tolist(), (final / final.sum()).tolist(), strict=True))


def check_against_reference(
    logits: Sequence[float] | Tensor, s: Sampling, near: float = NEAR, at_most: int = 10**9
) -> None:
    """Every id is drawn from its interval of [0, 1), and none is drawn that has no interval."""
    expected = reference(logits, s, near)
    numbers, ids, end = list[float](), list[int](), 0.0
    for id, probability in expected.items():
        start, end = end, end + probability
        if probability > 4 * NEAR and len(ids) < at_most:
            numbers += [start + NEAR, end - NEAR]
            ids += [id, id]
    for number, id in zip((FIRST, LAST), (min(expected), max(expected)), strict=True):
        if expected[id] > 1e-12:
            numbers.append(number)
            ids.append(id)
    assert draw_many(torch.as_tensor(logits, dtype=torch.float32), s, numbers) == ids


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    top_p=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.85, 0.97, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 17, 1000]),
    min_p=st.sampled_from([0.0, 0.0, 0.03, 0.2, 1.0]),
    order=st.sampled_from(["openai", "rwkv"]),
)
coarse = st.integers(-12, 12).map(lambda n: n / 4)  # many equals
fine = st.floats(-8, 8, width=32)


@settings(deadline=None, max_examples=400)
@given(st.lists(coarse, min_size=1, max_size=40) | st.lists(fine, min_size=1, max_size=40), samplings)
@example([0.0] * 10, Sampling(top_p=0.5))
@example([0.0] * 10, Sampling(top_p=0.5, order="rwkv"))
@example([1.0, 2.0, 2.0, 2.0], Sampling(top_k=2, order="rwkv"))
def test_both_orders_are_what_they_say_they_are(logits: list[float], s: Sampling) -> None:
    try:
        check_against_reference(logits, s)
    except TooNear:
        reject()


@pytest.mark.parametrize("order", ["openai", "rwkv"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "s",
    [
        {"top_p": 0.3},
        {"top_p": 0.95},
        {"top_p": 0.9, "temperature": 0.5},
        {"top_p": 0.999, "temperature": 1.5, "min_p": 0.001},
        {"top_k": 50},
        {"top_k": 3000, "top_p": 0.6},
        {"min_p": 0.02},
        {},
    ],
    ids=str,
)
def test_rows_of_the_world_vocabulary_are_sampled_exactly(s: dict[str, Any], order: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(WORLD, generator=generator) * (3.0, 2.0, 1.0)[seed]
    if seed == 2:
        logits = (logits * 4).round() / 4  # thousands of equals at every edge
    check_against_reference(logits, Sampling(**s, order=order), near=1e-9, at_most=40)


@pytest.mark.parametrize("order", ["openai", "rwkv"])
@pytest.mark.parametrize("size", [7, 257, 4096, WORLD])
def test_temperature_zero_takes_the_first_of_the_largest(size: int, order: Any) -> None:
    logits = torch.zeros(size)
    logits[[size // 2, size // 2 + 1, size - 1]] = 3.0
    s = Sampling(temperature=0, order=order, top_p=0.9, top_k=2)
    assert draw_many(logits, s, [FIRST, 0.5, LAST]) == [size // 2] * 3
    assert draw(torch.zeros(size), s, LAST) == 0


def test_the_smallest_of_temperatures_is_as_good_as_zero() -> None:
    assert draw([1.0, 2.0, 2.0 - 1e-6], Sampling(temperature=1e-320), LAST) == 1
    assert draw([1.0, 2.0, 1.9], Sampling(temperature=1e-5), LAST) == 1


def test_no_truncation_reaches_the_whole_vocabulary() -> None:
    # With sums in float32, ChatRWKV's sampler always draws the same token here.
    logits = torch.zeros(WORLD)
    for s in (Sampling(), Sampling(order="rwkv"), Sampling(top_p=1.0, top_k=WORLD + 5)):
        assert draw_many(logits, s, [FIRST, 0.5, LAST]) == [0, WORLD // 2, WORLD - 1]


@pytest.mark.parametrize("seed", range(8))
def test_a_top_p_next_to_one_is_no_accident(seed: int) -> None:
    # Sums in two orders differ by a rounding, so that the one may never reach this part of the other.
    logits = torch.randn(WORLD, generator=torch.Generator().manual_seed(5 + seed)) * 3
    for order in ("openai", "rwkv"):
        s = Sampling(top_p=1.0 - 2.0**-53, order=order)
        first, _, last = draw_many(logits, s, [FIRST, 0.5, LAST])
        assert first < 10
        assert last > WORLD - 20


def test_frequencies_follow_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    state, draws = SamplerState(Sampling(seed=1, temperature=0.8)), 4000
    counts = np.bincount([sample(logits[None], [state])[0] for _ in range(draws)], minlength=5)
    expected = np.array(list(reference(logits, state.sampling).values())) * draws
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_top_k_larger_than_the_vocabulary_is_no_limit() -> None:
    for order in ("openai", "rwkv"):
        s = Sampling(top_k=100, order=order)
        assert set(draw_many(torch.zeros(5), s, [0.1, 0.3, 0.5, 0.7, 0.9])) == set(range(5))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_of_a_hundred_decides(temperature: float) -> None:
    logits = torch.randn(WORLD, generator=torch.Generator().manual_seed(0)) * 3
    best = int(logits.argmax())
    for order in ("openai", "rwkv"):
        forced = Sampling(temperature=temperature, logit_bias={4711: 100.0}, order=order)
        assert draw_many(logits, forced, [FIRST, 0.5, LAST]) == [4711] * 3
        excluded = Sampling(temperature=temperature, logit_bias={best: -100.0}, order=order)
        assert best not in draw_many(logits, excluded, [(i + 0.5) / 20 for i in range(20)])


def test_banned_tokens_are_never_drawn_whatever_their_bias() -> None:
    logits, banned = torch.zeros(1, 8), torch.tensor([0, 6, 7])
    for s in (Sampling(logit_bias={7: 100.0}), Sampling(temperature=0, logit_bias={6: 50.0}), Sampling(top_p=0.7)):
        drawn = {sample(logits, [Fixed(s, number)], banned)[0] for number in (FIRST, 0.2, 0.5, 0.8, LAST)}
        assert drawn <= {1, 2, 3, 4, 5}
    assert sample(logits, [Fixed(Sampling(), FIRST)], torch.tensor([], dtype=torch.int64)) == [0]


def test_the_callers_logits_stay_as_they_are() -> None:
    logits = torch.randn(2, 50)
    before = logits.clone()
    states = [SamplerState(Sampling(logit_bias={3: 5.0}, presence_penalty=1.0)) for _ in range(2)]
    for _ in range(3):
        sample(logits, states, torch.tensor([1]))
    assert torch.equal(logits, before)


def test_penalties_take_off_presence_and_decaying_counts() -> None:
    s = Sampling(temperature=0, presence_penalty=0.5, frequency_penalty=0.25, penalty_decay=0.9)
    state = SamplerState(s, frozenset({1}))
    for token in (1, 2, 2, 3):
        state.advance(token)
    assert state.occurrences == pytest.approx({1: 0.9**3, 2: 0.9**2 + 0.9, 3: 1.0})
    logits = torch.zeros(5)
    state.adjust(logits)
    expected = [0, *(-(0.5 + 0.25 * n) for n in (0.9**3, 0.9**2 + 0.9, 1.0)), 0]
    assert logits.tolist() == pytest.approx(expected)


def test_rwkv_order_counts_uncounted_tokens_as_present_only() -> None:
    s = Sampling(presence_penalty=0.5, frequency_penalty=0.25, order="rwkv")
    state = SamplerState(s, frozenset({1}))
    for token in (1, 1, 2):
        state.advance(token)
    assert state.occurrences == {1: 0.0, 2: 1.0}


class FakeModel:
    """Gives ChatRWKV's pipeline one row of logits after another."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = iter(rows)

    def forward(self, tokens: list[int], state: None) -> tuple[Tensor, None]:
        return next(self._rows).clone(), None


class FakeTokenizer:
    def encode(self, text: str) -> Any:
        return self

    ids = (0,)

    def decode(self, tokens: list[int]) -> str:
        return "".join(" 7\tabcdefgh"[token] for token in tokens)


@pytest.mark.parametrize("seed", range(5))
def test_penalties_lead_to_the_same_tokens_as_chatrwkv(seed: int) -> None:
    rows = torch.randn(200, 11, generator=torch.Generator().manual_seed(seed))
    s = Sampling(temperature=0, presence_penalty=0.3, frequency_penalty=0.6, penalty_decay=0.97, order="rwkv")
    pipeline = object.__new__(PIPELINE)
    pipeline.model, pipeline.tokenizer = FakeModel(rows), FakeTokenizer()
    arguments = PIPELINE_ARGS(top_p=0, alpha_frequency=0.6, alpha_presence=0.3, alpha_decay=0.97)
    text = pipeline.generate("x", token_count=len(rows), args=arguments)
    state = SamplerState(s, frozenset({0, 1, 2}))
    assert FakeTokenizer().decode([sample(row[None], [state])[0] for row in rows]) == text


@pytest.mark.parametrize(("top_p", "top_k"), [(0.3, 0), (0.85, 0), (0.85, 7), (0.99, 40), (1.0, 5), (0.0, 0)])
def test_rwkv_order_keeps_the_same_tokens_as_chatrwkv(top_p: float, top_k: int) -> None:
    np.random.seed(0)
    logits = torch.randn(300, generator=torch.Generator().manual_seed(top_k)) * 2
    hot = 1e6  # after truncation this makes all that is left equally likely
    ours = set(
        draw_many(
            logits,
            Sampling(temperature=hot, top_p=top_p, top_k=top_k, order="rwkv"),
            [(i + 0.5) / 999 for i in range(999)],
        )
    )
    theirs = {object.__new__(PIPELINE).sample_logits(logits, hot, top_p, top_k) for _ in range(30 * len(ours))}
    assert ours == theirs


def mixed_states() -> list[SamplerState]:
    samplings = [
        Sampling(seed=1),
        Sampling(seed=2, top_p=0.4),
        Sampling(seed=3, top_p=0.97, presence_penalty=0.4, order="rwkv", penalty_decay=0.99),
        Sampling(seed=4, top_k=40, frequency_penalty=0.5),
        Sampling(seed=5, temperature=0.0),
        Sampling(seed=6, top_k=500, min_p=0.01),
    ]
    return [SamplerState(s) for s in samplings]


@pytest.mark.parametrize("vocabulary", [257, WORLD])
def test_a_row_does_not_depend_on_the_others(vocabulary: int) -> None:
    steps = torch.randn(5, 6, vocabulary, generator=torch.Generator().manual_seed(0)) * 2
    alone, together, reversed_ = mixed_states(), mixed_states(), mixed_states()
    for logits in steps:
        expected = [sample(row[None], [state])[0] for row, state in zip(logits, alone, strict=True)]
        assert sample(logits, together) == expected
        assert sample(logits.flip(0).T.contiguous().T, reversed_[::-1]) == expected[::-1]


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    logits = torch.zeros(1, 1000)

    def drawn(**key: int) -> list[int]:
        state = SamplerState(Sampling(**key))
        return [sample(logits, [state])[0] for _ in range(20)]

    assert drawn(seed=7) == drawn(seed=7)
    assert len({tuple(drawn(seed=7)), tuple(drawn(seed=8)), tuple(drawn(seed=7, choice=1))}) == 3
    assert len(set(drawn(seed=7))) > 15


def test_uniform_numbers_are_the_same_on_every_machine() -> None:
    state = SamplerState(Sampling(seed=2**64 - 1, choice=3))
    state.step = 5
    assert state.uniform() == 0.6642266107521563


def test_numbers_that_are_not_finite_are_never_drawn() -> None:
    logits = torch.tensor([math.nan, 1.0, math.inf, -math.inf, 1.0, math.nan])
    for s in (
        Sampling(),
        Sampling(temperature=0),
        Sampling(top_p=0.9),
        Sampling(top_k=4, order="rwkv"),
        Sampling(min_p=0.1),
    ):
        assert set(draw_many(logits, s, [FIRST, 0.3, 0.7, LAST])) <= {1, 4}


def test_rows_without_a_finite_number_are_named_and_nothing_has_moved() -> None:
    logits = torch.zeros(4, 300)
    logits[1], logits[3] = math.nan, -math.inf
    states = [SamplerState(Sampling(presence_penalty=1.0)) for _ in range(4)]
    with pytest.raises(BrokenLogits, match=r"row\(s\) 1, 3") as caught:
        sample(logits, states)
    assert caught.value.rows == [1, 3]
    assert isinstance(caught.value, ValueError)
    assert all(state.step == 0 and not state.occurrences for state in states)
    assert len(sample(logits[[0, 2]], [states[0], states[2]])) == 2


def test_a_row_that_is_banned_altogether_is_broken_too() -> None:
    with pytest.raises(BrokenLogits):
        sample(torch.zeros(1, 2), [SamplerState(Sampling())], torch.tensor([0, 1]))
