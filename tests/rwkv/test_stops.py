import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from cortexd.rwkv.stops import StopMatcher


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def definition(text: str, stops: list[str]) -> tuple[str, bool]:
    found = [position for stop in stops if stop and (position := text.find(stop)) >= 0]
    return text[: min(found, default=len(text))], bool(found)


def longest_end_that_begins_a_stop(text: str, stops: list[str]) -> int:
    return max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)


texts = st.text("ab\n", max_size=60)
stop_lists = st.lists(st.text("ab\n", max_size=7), max_size=4)
cut_lists = st.lists(st.integers(0, 60), max_size=12)


@given(texts, stop_lists, cut_lists)
@example("abc", ["b", "abc"], [2])
@example("abd", ["b", "abc"], [2])
@example("ab", ["b", "abc"], [])
@example("aaab", ["aab"], [1, 2, 3])
def test_the_text_ends_where_the_first_stop_string_begins_however_it_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    matcher, released, stopped = StopMatcher(stops), "", False
    expected, found = definition(text, stops)
    for piece in pieces(text, cuts):
        safe, stopped = matcher.feed(piece)
        released += safe
        assert expected.startswith(released), "something leaked"
    assert released + matcher.finish() == expected
    assert found or not stopped


@given(texts, stop_lists)
def test_no_more_is_held_back_than_could_become_a_stop_string(text: str, stops: list[str]) -> None:
    matcher, released = StopMatcher(stops), ""
    for end, char in enumerate(text, 1):
        safe, stopped = matcher.feed(char)
        released += safe
        if stopped or definition(text[:end], stops)[1]:
            break
        assert len(released) == end - longest_end_that_begins_a_stop(text[:end], stops)


@given(texts, stop_lists)
def test_it_stops_with_the_last_character_of_a_stop_string_unless_one_is_open_that_began_earlier(
    text: str, stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    for end, char in enumerate(text, 1):
        _, stopped = matcher.feed(char)
        kept, found = definition(text[:end], stops)
        open_from = end - longest_end_that_begins_a_stop(text[:end], stops)
        assert stopped == (found and len(kept) <= open_from)
        if stopped:
            break


@pytest.mark.parametrize("order", [1, -1])
def test_the_earliest_wins_whatever_the_order_of_the_list(order: int) -> None:
    assert StopMatcher(["late", "early"][::order]).feed("so early, so late") == ("so ", True)


def test_a_stop_string_never_leaks_even_in_part() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.feed("Hello.\n") == ("Hello.", False)
    assert matcher.feed("\nUse") == ("", False)
    assert matcher.feed("r: more") == ("", True)
    assert matcher.finish() == ""


def test_what_was_held_is_released_when_it_turns_out_harmless() -> None:
    matcher = StopMatcher(["\n\nUser:", "\n\nSystem:"])
    assert matcher.feed("a\n\n") == ("a", False)
    assert matcher.feed("Us") == ("", False)
    assert matcher.feed("ing\n") == ("\n\nUsing", False)
    assert matcher.finish() == "\n"


def test_nothing_comes_after_the_end() -> None:
    matcher = StopMatcher(["x"])
    assert matcher.feed("axb") == ("a", True)
    assert matcher.feed("more") == ("", True)
    assert matcher.finish() == ""


def test_without_stop_strings_everything_passes_at_once() -> None:
    for stops in ([], [""]):
        matcher = StopMatcher(stops)
        assert matcher.feed("any\n\nthing") == ("any\n\nthing", False)
        assert matcher.finish() == ""


def test_a_long_stop_string_may_almost_match_all_the_time() -> None:
    # Comparing anew with every character would take minutes.
    matcher = StopMatcher(["a" * 5000 + "b"])
    released = "".join(matcher.feed("a")[0] for _ in range(50_000))
    assert released == "a" * 45_000
    assert matcher.feed("b") == ("", True)
