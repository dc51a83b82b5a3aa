"""Prompts beside running streams: on machines of every speed steps keep to their target, and no prompt waits for ever."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.rwkv.batch import PIECE, Piece
from cortexd.rwkv.pace import Line, Pace

BUDGET = 256
Cost = Callable[[int, int], float]  # seconds of a step with so many streams and tokens of prompts


def pieces(streams: int, tokens: int) -> list[Piece]:
    return [Piece(slot, [1]) for slot in range(streams)] + ([Piece(99, [1] * tokens)] if tokens else [])


def run(pace: Pace, cost: Cost, streams: int, steps: int) -> tuple[list[float], list[int]]:
    """Seconds of each step beside which a long prompt waits, and its tokens in it."""
    seconds: list[float] = []
    read: list[int] = []
    for _ in range(steps):
        tokens = pace.room(streams, PIECE)
        tokens = tokens if pace.exact else tokens // PIECE * PIECE
        seconds.append(cost(streams, tokens))
        read.append(tokens)
        pace.note(pieces(streams, tokens), seconds[-1])
    return seconds, read


def learnt(pace: Pace, cost: Cost, streams: int = 1) -> Pace:
    """It has read a prompt with nobody beside it, and run some streams."""
    for tokens in (PIECE, 2 * PIECE, PIECE, 40):
        pace.note(pieces(0, tokens), cost(0, tokens))
    for _ in range(5):
        pace.note(pieces(streams, 0), cost(streams, 0))
    return pace


@settings(deadline=None)
@given(
    start=st.floats(0.001, 0.02),
    per_stream=st.floats(0.0, 0.001),
    per_token=st.floats(0.00001, 0.002),
    streams=st.integers(1, 20),
    noise=st.floats(0.0, 0.2),
)
def test_where_prompts_may_be_cut_anywhere_steps_keep_to_their_target(
    start: float, per_stream: float, per_token: float, streams: int, noise: float
):
    chance = random.Random(1)

    def cost(streams: int, tokens: int) -> float:
        exact = start + per_stream * streams + per_token * tokens
        return exact * chance.uniform(1 - noise, 1 + noise)

    pace = learnt(Pace(0.05, BUDGET, exact=True), cost, streams)
    seconds, read = run(pace, cost, streams, 300)
    assert sorted(seconds)[-3] <= 2 * 0.05
    assert all(read)
    fits = (0.05 - start - per_stream * streams) / per_token
    assert sum(read) >= 0.4 * 300 * min(BUDGET, max(0.0, fits))


@pytest.mark.parametrize("exact", [False, True])
def test_with_time_to_spare_prompts_have_their_whole_budget(exact: bool):
    pace = learnt(Pace(0.05, BUDGET, exact=exact), lambda d, t: 0.001 + 1e-5 * (d + t))
    _, read = run(pace, lambda d, t: 0.001 + 1e-5 * (d + t), 1, 50)
    assert read == [BUDGET] * 50


@pytest.mark.parametrize("exact", [False, True])
def test_without_streams_or_target_prompts_have_their_whole_budget(exact: bool):
    def slow(streams: int, tokens: int) -> float:
        return 1.0 + tokens

    assert learnt(Pace(0.05, BUDGET, exact=exact), slow).room(0, PIECE) == BUDGET
    assert learnt(Pace(0.0, BUDGET, exact=exact), slow).room(9, PIECE) == BUDGET


def test_a_piece_that_cannot_be_cut_and_takes_too_long_is_read_now_and_then_so_that_steps_keep_to_the_target_on_average():
    def cost(streams: int, tokens: int) -> float:
        return 0.01 + tokens * 0.001

    pace = learnt(Pace(0.05, BUDGET), cost)
    seconds, read = run(pace, cost, 1, 300)
    assert set(read) == {0, PIECE}
    assert sum(seconds) / len(seconds) == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("exact", [False, True])
def test_streams_that_alone_take_too_long_leave_prompts_a_third_of_the_time(exact: bool):
    def cost(streams: int, tokens: int) -> float:
        return 0.1 + tokens * 0.001

    pace = learnt(Pace(0.05, BUDGET, exact=exact), cost)
    seconds, read = run(pace, cost, 1, 300)
    assert sum(read) * 0.001 == pytest.approx(sum(seconds) / 3, rel=0.2)
    assert not exact or max(seconds) < 0.155


def test_a_prompt_is_not_kept_waiting_by_a_machine_that_stands_still_now_and_then():
    chance = random.Random(2)

    def cost(streams: int, tokens: int) -> float:
        return (0.04 + tokens * 0.001) * (30 if chance.random() < 0.2 else 1)

    for exact in (False, True):
        _, read = run(learnt(Pace(0.05, BUDGET, exact=exact), cost), cost, 1, 320)
        assert all(any(read[at : at + 16]) for at in range(0, 320, 16))


def test_one_step_that_took_long_does_not_stop_prompts():
    def cost(streams: int, tokens: int) -> float:
        return 0.005 + tokens * 0.0002

    pace = learnt(Pace(0.05, BUDGET, exact=True), cost)
    run(pace, cost, 2, 20)
    pace.note(pieces(2, 100), 5.0)
    _, read = run(pace, cost, 2, 40)
    assert sum(read[20:]) > 20 * 150


def test_a_machine_that_becomes_slow_is_noticed():
    pace = learnt(Pace(0.05, BUDGET, exact=True), lambda d, t: 0.005 + t * 0.0001)
    seconds, _ = run(pace, lambda d, t: 3 * (0.005 + t * 0.0001), 1, 100)
    assert max(seconds[10:]) <= 0.06


def test_what_costs_the_same_however_many_there_are_is_a_flat_line():
    line = Line()
    for x in (1, 50, 100, 150) * 5:
        line.note(x, 2.0)
    assert line.at(0) == pytest.approx(2.0, rel=0.01)
    assert line.at(300) == pytest.approx(2.0, rel=0.01)


def test_a_line_goes_on_between_what_was_measured():
    line = Line()
    for x in (10, 20, 40, 20) * 10:
        line.note(x, 1 + 0.5 * x)
    assert line.at(30) == pytest.approx(16, rel=0.01)
    assert line.where(16) == pytest.approx(30, rel=0.01)


def test_a_line_of_which_nothing_is_known_stands_in_nobodys_way():
    assert (Line().at(5), Line().where(1.0)) == (0.0, float("inf"))
