"""Replays: the arithmetic, and the policy that the supervisor uses beside others."""

from statistics import fmean

import pytest

from cortexd.errors import InvalidConfiguration
from cortexd.simulation.replay import CostAware, LeastRecentlyUsed, Outcome, replay
from cortexd.simulation.report import Comparison, compare
from cortexd.simulation.traces import GENERATORS, Trace, TraceModel, TraceRequest, generate

_SMALL, _LARGE, _SLOW = TraceModel("small", 1, 2.0), TraceModel("large", 2, 4.0), TraceModel("slow", 2, 100.0)


def _asked(*requests: tuple[float, TraceModel]) -> Trace:
    return Trace((_SMALL, _LARGE, _SLOW), tuple(TraceRequest(at, model.name) for at, model in requests))


def test_loads_evictions_and_waiting_are_added_up():
    trace = _asked((0, _SMALL), (1, _LARGE), (1, _SMALL), (10, _SMALL), (20, _SLOW), (130, _LARGE))
    # small: ready at 2; large waits for it and is ready at 6; the next small is still loading for a second; slow evicts
    # large, which is enough; large evicts slow, for small is too small to help.
    assert replay(trace, 3, LeastRecentlyUsed(3)) == Outcome(
        requests=6, cold_starts=4, evictions=3, load_seconds=110.0, seconds_waited=2 + 5 + 1 + 100 + 4
    )


def test_a_model_that_fits_beside_the_others_evicts_nobody():
    trace = _asked((0, _SMALL), (10, _LARGE), (20, _SLOW), (200, _SMALL))
    assert replay(trace, 5, LeastRecentlyUsed(5)).evictions == 0


def test_what_is_dear_to_bring_back_is_kept_though_it_was_used_less_recently_once_that_has_cost_a_load():
    trace = _asked((0, _SLOW), (200, _LARGE), (210, _SMALL), (400, _SLOW), (600, _LARGE), (610, _SMALL), (800, _SLOW))
    assert replay(trace, 4, LeastRecentlyUsed(4)).load_seconds == 312.0
    assert replay(trace, 4, CostAware(4)).load_seconds == 212.0


@pytest.fixture(scope="module")
def comparisons() -> dict[str, list[Comparison]]:
    """By kind: three seeds under three budgets."""
    found: dict[str, list[Comparison]] = {}
    for kind in GENERATORS:
        for seed in range(3):
            trace = generate(kind, seed=seed, models=10, requests=1000)
            sizes = [model.bytes for model in trace.models]
            budgets = [max(int(part * sum(sizes)), max(sizes)) for part in (0.3, 0.5, 0.7)]
            found.setdefault(kind, []).extend(compare(kind, trace, budget) for budget in budgets)
    return found


def _ratios(comparisons: list[Comparison]) -> list[float]:
    """Of the load-seconds of cost-aware to those of LRU."""
    return [row.to_lru for c in comparisons for row in c.rows if row.policy == "cost-aware" and row.to_lru is not None]


@pytest.mark.parametrize(("kind", "most"), [("zipf", 0.9), ("diurnal", 0.95), ("bursty", 0.97), ("alternating", 0.97)])
def test_cost_aware_loads_less_than_lru_on_every_kind_of_trace(
    comparisons: dict[str, list[Comparison]], kind: str, most: float
):
    assert fmean(_ratios(comparisons[kind])) < most


def test_where_it_loads_more_than_lru_on_one_trace_it_is_by_few_loads(comparisons: dict[str, list[Comparison]]):
    assert max(_ratios([comparison for each in comparisons.values() for comparison in each])) < 1.1


def test_on_independent_draws_it_never_loads_more_than_lru(comparisons: dict[str, list[Comparison]]):
    assert max(_ratios(comparisons["zipf"])) <= 1.0


def test_nothing_loads_less_than_the_optimum(comparisons: dict[str, list[Comparison]]):
    for comparison in (c for each in comparisons.values() for c in each):
        assert comparison.optimum.exact
        assert all(row.to_optimum is not None and row.to_optimum >= 1.0 for row in comparison.rows)


def test_a_budget_too_small_for_one_model_is_refused_with_the_arithmetic():
    with pytest.raises(InvalidConfiguration, match=r"large needs 2 bytes, and the budget has only 1\."):
        compare("trace", _asked((0, _SMALL)), 1)
