"""What is learnt from requests, what is foretold from it, and what becomes of forecasts that do not come true."""

import time
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.lifecycle.prediction import Predictor, hour_of_week

MINUTE, HOUR, DAY, WEEK = 60.0, 3600.0, 86400.0, 7 * 86400.0
MONDAY = 4 * DAY  # the first after the epoch, which was a Thursday

TRACES = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 2 * HOUR)), max_size=60)


def utc(at: float) -> int:
    return int((at - MONDAY) // HOUR) % 168


def predictor() -> Predictor:
    return Predictor(hour_of_week=utc)


def restored(data: bytes) -> Predictor:
    return Predictor.restored(data, hour_of_week=utc)


def probability(it: Predictor, now: float, model: str) -> float:
    return dict(it.likely(now, [model]))[model]


def live(it: Predictor, since: float, until: float, busy: dict[str, range], days: range) -> None:
    """Each model is asked for every four minutes in its hours of these days of the week; somebody looks each minute."""
    for minute in range(int(since // MINUTE), int(until // MINUTE)):
        at = minute * MINUTE
        day, hour = divmod(utc(at), 24)
        it.likely(at, [])
        for model, hours in busy.items():
            if minute % 4 == 0 and day in days and hour in hours:
                it.note(model, at)


def repeat(it: Predictor, start: float, *, times: int, gap: float = MINUTE) -> float:
    """A letter is written, `gap` later translated, and then nothing until an hour later on the next day. When that is."""
    return alternate(it, start, ["translator"] * times, gap)


def alternate(it: Predictor, start: float, followers: list[str], gap: float = MINUTE) -> float:
    for follower in followers:
        it.note("writer", start)
        it.note(follower, start + gap)
        start += DAY + HOUR
    return start


def replayed(trace: list[tuple[str, float]], it: Predictor) -> float:
    now = MONDAY
    for model, gap in trace:
        now += gap
        it.note(model, now)
    return now


def test_a_weekly_pattern_is_learnt():
    it = predictor()
    live(it, MONDAY, MONDAY + 4 * WEEK, {"reports": range(9, 12)}, days=range(1))
    monday = MONDAY + 4 * WEEK
    assert probability(it, monday + 9 * HOUR, "reports") > 0.5
    assert probability(it, monday + 14 * HOUR, "reports") < 0.1
    assert probability(it, monday + DAY + 9 * HOUR, "reports") < 0.2


def test_a_daily_pattern_is_known_on_days_that_were_never_seen():
    it = predictor()
    live(it, MONDAY, MONDAY + 3 * DAY, {"chat": range(20, 22)}, days=range(7))
    assert probability(it, MONDAY + 3 * DAY + 20 * HOUR, "chat") > 0.5
    assert probability(it, MONDAY + 3 * DAY + 12 * HOUR, "chat") < 0.1


def test_an_hour_is_foreseen_shortly_before_it_begins():
    it = predictor()
    live(it, MONDAY, MONDAY + 5 * DAY, {"chat": range(20, 22)}, days=range(7))
    evening = MONDAY + 5 * DAY + 20 * HOUR
    assert probability(it, evening - 2 * MINUTE, "chat") > 0.5
    assert probability(it, evening - 10 * MINUTE, "chat") < 0.1


def test_a_pattern_that_has_ended_is_forgotten():
    it = predictor()
    live(it, MONDAY, MONDAY + 2 * WEEK, {"chat": range(20, 22)}, days=range(7))
    live(it, MONDAY + 2 * WEEK, MONDAY + 6 * WEEK, {}, days=range(7))
    assert probability(it, MONDAY + 6 * WEEK + 20 * HOUR, "chat") < 0.3


def test_hours_in_which_the_daemon_did_not_run_say_nothing():
    it = predictor()
    live(it, MONDAY, MONDAY + 5 * DAY, {"chat": range(20, 22)}, days=range(7))
    before = probability(it, MONDAY + 5 * DAY + 20 * HOUR, "chat")
    later = restored(it.dump())
    assert probability(later, MONDAY + 5 * DAY + 3 * WEEK + 20 * HOUR, "chat") == pytest.approx(before, rel=0.1)


def test_a_longer_horizon_is_likelier_to_see_a_request():
    near, far = Predictor(300.0, utc), Predictor(1800.0, utc)
    for it in (near, far):
        live(it, MONDAY, MONDAY + WEEK, {"chat": range(20, 22)}, days=range(7))
    evening = MONDAY + WEEK + 20 * HOUR
    assert probability(far, evening, "chat") > probability(near, evening, "chat")


def test_what_usually_follows_is_foretold():
    it = predictor()
    now = repeat(it, MONDAY, times=5)
    it.note("writer", now)
    likely = it.likely(now, ["stranger", "translator", "writer"])
    assert likely[0][0] == "translator"
    assert likely[0][1] > 0.5
    assert dict(likely)["stranger"] == 0


def test_once_is_no_habit():
    it = predictor()
    now = repeat(it, MONDAY, times=1)
    it.note("writer", now)
    assert probability(it, now, "translator") < 0.5


def test_a_habit_that_has_changed_is_unlearnt_soon():
    it = predictor()
    now = alternate(it, MONDAY, ["translator"] * 30 + ["painter"] * 5)
    it.note("writer", now)
    assert probability(it, now, "translator") < 0.5 < probability(it, now, "painter")


def test_what_did_not_follow_in_time_is_not_waited_for():
    it = predictor()
    now = repeat(it, MONDAY, times=5)
    it.note("writer", now)
    foretold = [probability(it, now + minutes * MINUTE, "translator") for minutes in range(1, 15)]
    assert foretold == sorted(foretold, reverse=True)
    assert foretold[-1] < 0.1


def test_what_follows_after_ten_minutes_is_foretold_after_seven():
    it = predictor()
    now = repeat(it, MONDAY, times=8, gap=10 * MINUTE)
    it.note("writer", now)
    assert probability(it, now, "translator") < 0.2
    assert probability(it, now + 7 * MINUTE, "translator") > 0.35


def test_requests_a_quarter_of_an_hour_apart_have_nothing_to_do_with_each_other():
    it = predictor()
    now = repeat(it, MONDAY, times=8, gap=15 * MINUTE + 1)
    it.note("writer", now)
    assert probability(it, now, "translator") < 0.2


def test_a_long_run_of_one_model_does_not_foretell_the_next_at_each_request():
    it = predictor()
    now = repeat(it, MONDAY, times=5)
    for minute in range(30):
        it.note("writer", now + minute * MINUTE)
    assert probability(it, now + 29 * MINUTE, "translator") < 0.1


def test_few_of_many_models_are_remembered_and_the_rarest_forgotten():
    it = predictor()
    repeat(it, MONDAY, times=5)
    sizes: list[int] = []
    now = MONDAY + WEEK
    for number in range(1024):
        it.note(f"model-{number:04}", now + number * HOUR)
        sizes.append(len(it.dump()))
    assert max(sizes[512:]) < 1.1 * max(sizes[:512])
    now += 1024 * HOUR
    it.note("writer", now)
    assert probability(it, now, "translator") > 0.5
    assert probability(it, now, "model-0000") == 0


def test_a_model_with_many_followers_keeps_those_that_are_frequent():
    it = predictor()
    now = MONDAY
    for number in range(40):
        for follower in ("friend", f"model-{number}"):
            it.note("hub", now)
            it.note(follower, now + MINUTE)
            now += HOUR
    it.note("hub", now)
    assert probability(it, now, "friend") > 0.3


@given(TRACES)
def test_a_restored_predictor_says_the_same(trace: list[tuple[str, float]]):
    it = predictor()
    now = replayed(trace, it) + HOUR
    assert restored(it.dump()).likely(now, "abcd") == it.likely(now, "abcd")


@given(TRACES, st.data())
def test_a_damaged_payload_is_ignored(trace: list[tuple[str, float]], data: st.DataObject):
    it = predictor()
    now = replayed([*trace, ("a", 1.0)], it)
    payload = bytearray(it.dump())
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    assert restored(bytes(payload)).likely(now, "abcd") == predictor().likely(now, "abcd")


@given(st.binary(max_size=64))
def test_any_bytes_can_be_restored_from(data: bytes):
    assert restored(data).active


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 2e9), st.booleans()), max_size=40))
def test_whatever_clocks_do_a_probability_is_one(trace: list[tuple[str, float, bool]]):
    it = predictor()
    for model, at, forecast in trace:
        it.predicted(model, at) if forecast else it.note(model, at)
        likely = it.likely(at, "abcde")
        assert sorted(name for name, _ in likely) == list("abcde")
        assert all(0 <= p <= 1 for _, p in likely)
        assert [p for _, p in likely] == sorted((p for _, p in likely), reverse=True)
        assert 0 <= it.hit_rate <= 1


def test_a_forecast_is_a_hit_when_it_is_asked_for_within_the_horizon():
    it = predictor()
    it.predicted("goose", MONDAY)
    assert it.awaited("goose")
    it.note("goose", MONDAY + 300)
    assert (it.hits, it.misses, it.hit_rate) == (1, 0, 1.0)
    assert not it.awaited("goose")


def test_a_forecast_is_a_miss_when_the_horizon_has_passed():
    it = predictor()
    it.predicted("goose", MONDAY)
    it.likely(MONDAY + 301, [])
    assert (it.hits, it.misses, it.hit_rate) == (0, 1, 0.0)
    it.note("goose", MONDAY + 302)
    assert it.hits == 0


def test_two_forecasts_of_one_model_are_judged_once():
    it = predictor()
    it.predicted("goose", MONDAY)
    it.predicted("goose", MONDAY + 200)
    it.note("goose", MONDAY + 250)
    assert (it.hits, it.misses) == (1, 0)


def judge(it: Predictor, verdicts: Iterator[bool] | list[bool], start: float = MONDAY) -> float:
    for hit in verdicts:
        it.predicted("goose", start)
        start += 400
        it.note("goose", start - 200) if hit else it.likely(start, [])
    return start


def test_it_is_not_switched_off_before_twenty_forecasts_were_judged():
    it = predictor()
    now = judge(it, [False] * 19)
    assert it.active
    judge(it, [False], now)
    assert not it.active


def test_it_is_switched_on_again_only_well_above_where_it_was_switched_off():
    it = predictor()
    now = judge(it, [False] * 20)
    rates: list[tuple[float, bool]] = []
    for _ in range(40):
        now = judge(it, [True], now)
        rates.append((it.hit_rate, it.active))
    assert any(0.30 < rate < 0.45 and not active for rate, active in rates)
    assert all(active == (rate > 0.45) for rate, active in rates)
    assert it.active
    while it.hit_rate >= 0.30:
        assert it.active
        now = judge(it, [False], now)
    assert not it.active


def test_old_judgements_are_forgotten():
    it = predictor()
    now = judge(it, [True] * 300)
    judge(it, [False] * 150, now)
    assert it.hit_rate < 0.3 < it.hits / (it.hits + it.misses)


def test_being_switched_off_outlives_a_restart():
    it = predictor()
    judge(it, [False] * 20)
    after = restored(it.dump())
    assert not after.active
    assert (after.hits, after.misses) == (0, 20)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_random_requests_switch_it_off_and_a_habit_switches_it_on(seed: int):
    it, random = predictor(), Random(seed)
    models = [f"model-{number}" for number in range(40)]
    now = MONDAY
    for _ in range(600):
        now += random.expovariate(1 / MINUTE)
        it.note(random.choice(models), now)
        guess = next(name for name, _ in it.likely(now, models) if not it.awaited(name))
        it.predicted(guess, now)
    assert not it.active
    for _ in range(100):
        now += HOUR
        for model in ("writer", "translator"):
            now += MINUTE
            it.note(model, now)
            name, foretold = it.likely(now, [*models, "writer", "translator"])[0]
            if foretold > 0.5:
                it.predicted(name, now)
    assert it.active


def test_hours_are_those_of_the_place(monkeypatch: pytest.MonkeyPatch):
    try:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        assert hour_of_week(MONDAY + 9 * HOUR) == 9
        monkeypatch.setenv("TZ", "XYZ-2")  # two hours east
        time.tzset()
        assert hour_of_week(MONDAY + 9 * HOUR) == 11
        assert hour_of_week(MONDAY - 3 * HOUR) == 6 * 24 + 23
    finally:
        monkeypatch.undo()
        time.tzset()
