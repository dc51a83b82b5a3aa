"""Mean and deviation, one value at a time."""

import statistics

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cortexd.moments import Moments


def moments_of(*values: float) -> Moments:
    moments = Moments()
    for value in values:
        moments = moments.including(value)
    return moments


def test_mean_and_deviation_are_those_of_the_values():
    values = [3.1, 2.9, 3.4, 2.2, 1e3, 3.3]
    moments = moments_of(*values)
    assert moments.count == len(values)
    assert moments.mean == pytest.approx(statistics.fmean(values))
    assert moments.deviation == pytest.approx(statistics.stdev(values))


@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=50))
def test_mean_and_deviation_are_those_of_any_values(values: list[float]):
    moments = moments_of(*values)
    assert moments.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert moments.deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-3)


def test_large_numbers_that_differ_little_keep_their_deviation():
    assert moments_of(8e9, 8e9 + 1, 8e9 + 2).deviation == pytest.approx(1.0)


def test_one_value_has_no_deviation():
    assert Moments().including(3.0).deviation == 0.0
