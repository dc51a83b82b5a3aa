"""Which ranking leads, and what it says."""

from hypothesis import given
from hypothesis import strategies as st

from cortexd.lifecycle.eviction import Candidate, choose_victims
from cortexd.lifecycle.ranking import Ranking, Wanted

_RATES = {"small": 0.1, "large": 0.9, "other": 0.5, "huge": 0.7}


def _wanted(name: str, held: int = 1, seconds: float = 10.0, device: str = "cpu") -> Wanted:
    return Wanted(name=name, holds={device: held}, load_seconds=seconds)


def _ranking(**ceilings: int) -> Ranking:
    return Ranking(ceilings, lambda name: _RATES.get(name, 0.0))


def _asked(ranking: Ranking, *names: str) -> Ranking:
    for name in names:
        ranking.note(_wanted(name))
    return ranking


def test_without_evidence_the_last_used_is_the_dearest_and_the_never_used_the_cheapest():
    costs = _asked(_ranking(cpu=9), "large", "small", "large", "other").costs(_RATES)
    assert sorted(costs, key=lambda name: costs[name]) == ["huge", "small", "large", "other"]


def test_a_forecast_that_would_have_loaded_less_leads():
    # Room for two, three in turn: by last use every request is a load; the forecast keeps the large one.
    ranking = _asked(_ranking(cpu=2), *["large", "small", "other"] * 3)
    assert ranking.leader == "expected cost"
    assert ranking.costs({"large": 9.0, "small": 1.0}) == {"large": 9.0, "small": 1.0}


def test_a_forecast_that_keeps_what_is_over_stops_leading():
    ranking = _asked(_ranking(cpu=2), *["large", "small", "other"] * 3)
    _asked(ranking, *["small", "other"] * 4)
    assert ranking.leader == "last use"


def test_requests_that_load_nothing_in_either_change_nothing_however_many():
    ranking = _asked(_ranking(cpu=2), *["large", "small", "other"] * 3)
    _asked(ranking, *["large"] * 100_000)
    assert ranking.leader == "expected cost"


def test_what_can_never_fit_evicts_nobody_and_is_nobodys_mistake():
    ranking = _ranking(cpu=2)
    for _ in range(3):
        _asked(ranking, "large", "small", "other")
        ranking.note(_wanted("huge", held=3))
    assert ranking.leader == "expected cost"  # and would not be, had huge emptied both


def test_every_device_has_a_budget_of_its_own_and_one_without_is_not_counted():
    ranking = _ranking(**{"cpu": 2, "cuda:0": 9})
    for _ in range(3):
        _asked(ranking, "large", "small", "other")
        ranking.note(_wanted("huge", held=100, device="disk"))
    assert ranking.leader == "expected cost"  # and would not be, had the room on the GPU helped


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 30))
def test_by_last_use_the_least_recently_used_go_and_of_these_nobody_in_vain(sizes: list[int], shortage: int):
    names = [f"{place:02}" for place in range(len(sizes))]
    held = dict(zip(names, sizes, strict=True))
    costs = _asked(_ranking(cpu=1000), *names).costs(dict.fromkeys(names, 1.0))
    chosen = choose_victims([Candidate(n, {"cpu": held[n]}, costs[n]) for n in names], {"cpu": shortage})
    if sum(sizes) < shortage:
        assert chosen is None
        return
    going: list[str] = []
    while sum(held[name] for name in going) < shortage:
        going.append(names[len(going)])
    for name in reversed(going.copy()):
        if sum(held[other] for other in going) - held[name] >= shortage:
            going.remove(name)
    assert chosen is not None
    assert [victim.name for victim in chosen] == going
