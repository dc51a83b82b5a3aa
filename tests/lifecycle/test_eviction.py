"""Choosing victims, held against every subset there is."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.lifecycle.eviction import Candidate, choose_victims, cost_of_absence

_DEVICES = ("cpu", "cuda:0")


def _frees_enough(victims: Sequence[Candidate], shortage: Mapping[str, int]) -> bool:
    return all(sum(v.frees.get(device, 0) for v in victims) >= count for device, count in shortage.items())


def _best_of_all(candidates: Sequence[Candidate], shortage: Mapping[str, int]) -> list[Candidate] | None:
    def key(victims: Sequence[Candidate]) -> tuple[float, int, int, list[str]]:
        total = sum(sum(v.frees.values()) for v in victims)
        return sum(v.cost for v in victims), len(victims), total, [v.name for v in victims]

    ordered = sorted(candidates, key=lambda c: c.name)
    subsets = (list(s) for count in range(len(ordered) + 1) for s in combinations(ordered, count))
    return min((s for s in subsets if _frees_enough(s, shortage)), key=key, default=None)


def _candidates(costs: st.SearchStrategy[float], most: int) -> st.SearchStrategy[list[Candidate]]:
    frees = st.dictionaries(st.sampled_from(_DEVICES), st.integers(0, 6))
    candidate = st.builds(Candidate, name=st.text("abcdef", min_size=1, max_size=3), frees=frees, cost=costs)
    return st.lists(candidate, max_size=most, unique_by=lambda c: c.name)


_shortages = st.dictionaries(st.sampled_from(_DEVICES), st.integers(-1, 15))


@given(_candidates(st.integers(0, 4).map(float), 8), _shortages)
def test_no_set_is_better_and_ties_are_broken_as_promised(candidates: list[Candidate], shortage: dict[str, int]):
    assert choose_victims(candidates, shortage) == _best_of_all(candidates, shortage)


@given(_candidates(st.floats(0, 1e-3), 8), _shortages)
def test_no_set_is_cheaper_where_costs_are_small_fractions(candidates: list[Candidate], shortage: dict[str, int]):
    victims, best = choose_victims(candidates, shortage), _best_of_all(candidates, shortage)
    assert (victims is None) == (best is None)
    if victims is not None and best is not None:
        assert _frees_enough(victims, shortage)
        assert sum(v.cost for v in victims) == pytest.approx(sum(v.cost for v in best), rel=0, abs=1e-11)


@given(_candidates(st.floats(0, 10), 40), _shortages, st.randoms())
def test_the_order_of_the_candidates_changes_nothing(candidates: list[Candidate], shortage: dict[str, int], random):
    shuffled = random.sample(candidates, len(candidates))
    assert choose_victims(shuffled, shortage) == choose_victims(candidates, shortage)


@given(_candidates(st.floats(0, 10), 40), _shortages)
def test_nobody_goes_who_could_have_stayed(candidates: list[Candidate], shortage: dict[str, int]):
    for spared in (victims := choose_victims(candidates, shortage) or []):
        assert not _frees_enough([v for v in victims if v is not spared], shortage)


def test_one_cheap_large_model_goes_before_two_small_ones_that_cost_more_together():
    large, small, other = (Candidate(n, {"cpu": b}, c) for n, b, c in (("large", 10, 3), ("a", 5, 2), ("b", 5, 2)))
    assert choose_victims([small, other, large], {"cpu": 10}) == [large]


def test_the_greedy_choice_is_not_the_last_word():
    # By cost per byte `a` goes first, and then `c` has to go as well.
    a, c = Candidate("a", {"cpu": 9}, 9.0), Candidate("c", {"cpu": 10}, 11.0)
    assert choose_victims([a, c], {"cpu": 10}) == [c]


def test_what_frees_nothing_on_the_short_device_stays():
    elsewhere, here = Candidate("elsewhere", {"cpu": 9}, 0.0), Candidate("here", {"cuda:0": 9}, 5.0)
    assert choose_victims([elsewhere, here], {"cuda:0": 1}) == [here]


def test_nothing_short_means_nobody_goes():
    assert choose_victims([Candidate("a", {"cpu": 1}, 0.0)], {"cpu": 0}) == []


def test_a_thousand_models_of_equal_worth_are_still_decided_soon_and_well():
    models = [Candidate(f"{i:04}", {"cpu": 100 + i}, 0.0) for i in range(1000)]
    victims = choose_victims(models, {"cpu": 50_000})
    assert victims is not None
    assert 50_000 <= sum(v.frees["cpu"] for v in victims) < 51_100


def test_absence_costs_the_loads_that_it_will_cause():
    assert cost_of_absence(rate=0.5, load_seconds=8.0) == 4.0
