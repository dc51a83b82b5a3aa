"""The optimum, held against every schedule there is, and against Belady."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.simulation.clairvoyant import clairvoyant
from cortexd.simulation.traces import Trace, TraceModel, TraceRequest, generate


def _trace(models: Sequence[tuple[int, float]], wanted: Sequence[int]) -> Trace:
    described = tuple(TraceModel(str(i), size, seconds) for i, (size, seconds) in enumerate(models))
    return Trace(described, tuple(TraceRequest(float(at), str(i)) for at, i in enumerate(wanted)))


def _least_of_all(models: Sequence[tuple[int, float]], wanted: Sequence[int], budget: int) -> float:
    @cache
    def least(done: int, resident: frozenset[int]) -> float:
        if done == len(wanted):
            return 0.0
        model = wanted[done]
        if model in resident:
            return least(done + 1, resident)
        subsets = (frozenset(s) for count in range(len(resident) + 1) for s in combinations(sorted(resident), count))
        fitting = (s | {model} for s in subsets if sum(models[i][0] for i in s | {model}) <= budget)
        return models[model][1] + min(least(done + 1, kept) for kept in fitting)

    return least(0, frozenset())


def _belady(wanted: Sequence[int], slots: int) -> int:
    """Loads, where the one that is wanted last goes."""
    resident: set[int] = set()
    loads = 0
    for at, model in enumerate(wanted):
        if model not in resident:
            loads += 1
            if len(resident) == slots:
                later = list(wanted[at:])
                resident.remove(max(resident, key=lambda m: (later.index(m) if m in later else len(later), m)))
            resident.add(model)
    return loads


_models = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5).map(float)), min_size=1, max_size=5)


@given(_models, st.data())
def test_no_schedule_is_better(models: list[tuple[int, float]], data: st.DataObject):
    wanted = data.draw(st.lists(st.integers(0, len(models) - 1), min_size=1, max_size=12))
    budget = data.draw(st.integers(6, 14))
    optimum = clairvoyant(_trace(models, wanted), budget)
    assert optimum.exact
    assert optimum.load_seconds == _least_of_all(models, wanted, budget)


@given(st.integers(1, 4), st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_for_equal_models_it_is_belady(slots: int, wanted: list[int]):
    optimum = clairvoyant(_trace([(1, 1.0)] * 7, wanted), slots)
    assert (optimum.load_seconds, optimum.exact) == (_belady(wanted, slots), True)


@pytest.mark.parametrize("most_states", [3, 10])
def test_with_too_few_states_it_says_so_and_is_never_below_the_optimum(most_states: int):
    trace = generate("zipf", models=9, requests=150)
    budget = sum(model.bytes for model in trace.models) // 2
    best, bound = clairvoyant(trace, budget), clairvoyant(trace, budget, most_states=most_states)
    assert best.exact
    assert not bound.exact
    assert best.load_seconds <= bound.load_seconds < 1.5 * best.load_seconds
