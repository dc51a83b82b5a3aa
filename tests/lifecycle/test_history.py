"""What is learnt of models, and how much the next load is expected to take."""

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.lifecycle.history import History, high
from cortexd.moments import Moments
from tests.test_moments import moments_of

GOOSE = ModelSpec(name="goose", source="file", path="/goose", weights="1", size=400_000_000)


def test_headroom_shrinks_with_evidence():
    few, many = moments_of(100.0, 104.0), moments_of(*(100.0, 104.0) * 20)
    assert high(many) < high(few)
    assert high(many) > 104


def test_one_life_unlike_all_others_does_not_make_a_model_too_large_for_ever():
    moments = moments_of(100.0, 900.0, 100.0)
    assert high(moments) <= 1.3 * moments.mean


def test_before_anything_was_measured_the_estimate_counts_with_headroom():
    sizes = {"cpu": 1000}
    history = History(lambda _: sizes)
    assert history.expected(GOOSE) == {"cpu": 1100}
    assert history.expected(GOOSE) == {"cpu": 1100}, "what an engine says is not changed"
    assert sizes == {"cpu": 1000}


def test_what_was_measured_counts_from_then_on_and_is_told_to_who_keeps_it():
    kept: list[tuple[str, str, str, float]] = []
    history = History(
        lambda _: {"cpu": 1000}, lambda spec, what, device, value: kept.append((spec.name, what, device, value))
    )
    history.note(GOOSE, "peak_bytes", "cpu", 600.0)
    assert 600 < history.expected(GOOSE)["cpu"] < 700
    assert kept == [("goose", "peak_bytes", "cpu", 600.0)]


def test_what_an_earlier_daemon_had_learnt_counts():
    history = History(lambda _: {"cpu": 1000})
    history.recall("1", "auto", "peak_bytes", "cpu", Moments(50, 600.0, 0.0))
    history.recall("1", "auto", "load_seconds", "", Moments(50, 7.0, 0.0))
    assert history.expected(GOOSE)["cpu"] == pytest.approx(612, abs=2)
    assert history.load_seconds(GOOSE) == 7.0


def test_a_new_version_of_a_file_starts_afresh():
    history = History(lambda _: {"cpu": 1000})
    history.note(GOOSE, "load_seconds", "", 9.0)
    other = ModelSpec(name="goose", source="file", path="/goose", weights="2", size=400_000_000)
    assert history.load_seconds(GOOSE) == 9.0
    assert history.load_seconds(other) == pytest.approx(1.2)


def test_one_slow_load_does_not_count_for_long():
    history = History(lambda _: {})
    for seconds in (60.0, 0.2, 0.3, 0.2):
        history.note(GOOSE, "load_seconds", "", seconds)
    assert history.load_seconds(GOOSE) <= 0.3


def test_what_is_used_is_expected_to_be_used_again_and_the_unknown_is_not():
    now = [1000.0]
    history = History(lambda _: {}, now=lambda: now[0])
    for _ in range(5):
        history.note_use("goose")
        now[0] += 60
    assert history.rate("goose") > 0
    assert history.rate("swan") == 0.0
