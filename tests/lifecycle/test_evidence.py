"""Evidence is fair: who bets on a difference that is not there wins nothing on average, however it is looked at."""

import math
from itertools import combinations
from random import Random
from statistics import fmean

import pytest

from cortexd.lifecycle.evidence import Count, Slowness, more_failures

BLOCK = 8


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("one", "other"), [(1, 1), (4, 4), (2, 30), (20, 3)])
def test_failures_as_often_as_the_others_are_worth_no_more_than_nothing(rate: float, one: int, other: int):
    def probability(failures: int, requests: int) -> float:
        return math.comb(requests, failures) * rate**failures * (1 - rate) ** (requests - failures)

    expected = sum(
        probability(mine, one) * probability(theirs, other) * more_failures(Count(one, mine), Count(other, theirs))
        for mine in range(one + 1)
        for theirs in range(other + 1)
    )
    assert expected <= 1


def test_evidence_of_failures_grows_with_each_and_is_none_for_fewer():
    grown = [more_failures(Count(40, failures), Count(760, 2)) for failures in range(1, 41)]
    assert grown == sorted(grown)
    assert grown[6] > 1e4  # 7 of 40, beside 2 of 760
    assert more_failures(Count(40, 2), Count(760, 38)) == 0.0
    assert more_failures(Count(0, 0), Count(5, 5)) == 0.0
    assert math.isfinite(more_failures(Count(10**6, 10**6), Count(10**6, 0)))


@pytest.mark.parametrize("ones", range(1, BLOCK))
@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5, 6, 7, 8], [5, 1, 1, 1, 9, 9, 2, 2]])
def test_who_of_a_block_was_the_one_decides_and_on_average_nothing_is_won(ones: int, values: list[float]):
    won: list[float] = []
    for places in combinations(range(BLOCK), ones):
        slowness = Slowness()
        for place, value in enumerate(values):
            slowness.note(place in places, value)
        won.append(slowness.evidence)
    assert fmean(won) == pytest.approx(1)
    assert max(won) > 1.2


def test_a_block_of_one_alone_says_nothing():
    slowness = Slowness()
    for value in range(10 * BLOCK):
        slowness.note(True, value)
    assert slowness.evidence == 1
    assert all(math.isnan(each) for each in slowness.medians())


def test_medians_are_of_the_same_time():
    slowness = Slowness()
    for block in range(200):
        for place in range(BLOCK):
            slowness.note(place == 0, 1000 * block + (7 if place == 0 else place))
    one, other = slowness.medians()
    assert one == 1000 * (199 - 63 / 2) + 7
    assert abs(one - 7 - other) < 1000


def test_evidence_of_a_difference_outgrows_any_bound():
    random, slowness = Random(0), Slowness()
    for _ in range(20_000):
        is_one = random.random() < 0.1
        slowness.note(is_one, random.gauss(150 if is_one else 100, 30))
    assert slowness.evidence > 1e100
