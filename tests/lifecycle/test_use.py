"""What is concluded from when a model was used."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cortexd.lifecycle.use import Use

_HOUR = 3600.0


def _used(*times: float) -> Use:
    use = Use()
    for at in times:
        use.note(at)
    return use


def _every(seconds: float, until: float) -> list[float]:
    return [i * seconds for i in range(int(until / seconds) + 1)]


def test_a_model_that_was_never_used_is_not_expected_to_be():
    assert Use().rate(1e9) == 0.0


def test_of_two_models_used_once_the_later_is_likelier():
    now = 1000.0
    assert _used(900.0).rate(now) > _used(100.0).rate(now)


def test_of_two_models_used_at_the_same_moment_the_more_frequent_is_likelier():
    day = 24 * _HOUR
    often, seldom = _used(*_every(_HOUR, day)), _used(*_every(6 * _HOUR, day))
    assert often.rate(day + 1800) > seldom.rate(day + 1800)


def test_a_steady_habit_is_told_nearly_right():
    use = _used(*_every(600.0, 48 * _HOUR))
    assert 1 / 1800 < use.rate(48 * _HOUR + 60) < 1 / 200


def test_a_conversation_that_is_over_counts_less_than_a_habit_that_is_not():
    """A burst of twenty uses, each day for ten days; and one use every two hours. An hour after both were used last,
    the burst is over, though it used its model twice as often."""
    day = 24 * _HOUR
    burst = _used(*(d * day + i * 30.0 for d in range(10) for i in range(20)))
    habit = _used(*_every(2 * _HOUR, 9 * day))
    assert burst.rate(9 * day + 570 + 30) > habit.rate(9 * day + 30)
    assert burst.rate(9 * day + 570 + _HOUR) < habit.rate(9 * day + _HOUR)


def test_an_old_habit_gives_way_to_a_new_one():
    changed = _used(*_every(60.0, 10 * _HOUR), *(10 * _HOUR + at for at in _every(4 * _HOUR, 2000 * _HOUR)))
    always = _used(*_every(4 * _HOUR, 2000 * _HOUR))
    assert changed.rate(2010 * _HOUR) < 2 * always.rate(2000 * _HOUR)


@given(st.lists(st.floats(0, 1e9), max_size=30), st.floats(0, 1e9))
def test_it_survives_a_restart_and_any_clock(times: list[float], now: float):
    use = _used(*times)
    again = msgspec.json.decode(msgspec.json.encode(use), type=Use)
    assert again.rate(now) == use.rate(now)
    assert 0.0 <= use.rate(now) < 10.0


def test_it_does_not_grow():
    assert len(msgspec.msgpack.encode(_used(*_every(7.0, _HOUR)))) == len(msgspec.msgpack.encode(_used(1.0, 2.0)))
