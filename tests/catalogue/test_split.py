"""A session keeps to its target, and changes it only where weights make it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd.catalogue.split import Split

SESSIONS = [f"session {number}" for number in range(400)]
WEIGHTS = st.dictionaries(
    st.sampled_from(["a", "b", "b@2", "c@17"]), st.sampled_from([0, 0.5, 1, 5, 95]), min_size=1
).filter(lambda weights: any(weights.values()))


def chosen(weights: dict[str, float]) -> dict[str, str]:
    split = Split.of(weights)
    return {session: split.choose(session) for session in SESSIONS}


def test_a_single_target_has_every_session():
    assert {Split.of("goose@17").choose(session) for session in SESSIONS} == {"goose@17"}


@pytest.mark.parametrize("weights", [{"a": 95, "b": 5}, {"a": 1, "b": 1}, {"a": 0.2, "b": 0.3, "c": 0.5}])
def test_shares_are_those_of_the_weights(weights: dict[str, float]):
    split, sessions = Split.of(weights), 20_000
    counts = Counter(split.choose(str(number)) for number in range(sessions))
    for target, weight in weights.items():
        share = weight / sum(weights.values())
        deviation = (share * (1 - share) / sessions) ** 0.5
        assert abs(counts[target] / sessions - share) < 4 * deviation


@given(WEIGHTS, st.text())
def test_the_order_of_targets_makes_no_difference(weights: dict[str, float], session: str):
    backwards = dict(reversed(weights.items()))
    assert Split.of(weights).choose(session) == Split.of(backwards).choose(session)


@given(WEIGHTS, st.text())
def test_what_has_no_weight_gets_no_session(weights: dict[str, float], session: str):
    assert weights[Split.of(weights).choose(session)] > 0


@given(WEIGHTS, st.data(), st.floats(0, 100))
def test_more_weight_for_one_target_moves_sessions_to_it_only(
    weights: dict[str, float], data: st.DataObject, more: float
):
    target = data.draw(st.sampled_from(sorted(weights)))
    before, after = chosen(weights), chosen({**weights, target: weights[target] + more})
    assert all(after[session] in (before[session], target) for session in SESSIONS)


@given(WEIGHTS)
def test_a_target_that_is_taken_away_moves_its_own_sessions_only(weights: dict[str, float]):
    split = Split.of(weights)
    if len(split.targets) < 2:
        return
    for target in split.targets:
        rest = split.without(target)
        for session in SESSIONS[:50]:
            before, after = split.choose(session), rest.choose(session)
            assert after != target
            assert after == before or before == target


def test_as_many_sessions_move_as_shares_change():
    before, after = chosen({"a": 95, "b": 5}), chosen({"a": 90, "b": 10})
    moved = sum(before[session] != after[session] for session in SESSIONS)
    assert moved == Counter(after.values())["b"] - Counter(before.values())["b"]


def test_the_heaviest_target_comes_first_and_of_equal_ones_the_older():
    assert Split.of({"a@3": 5, "b": 95, "c": 0}).targets == ["b", "a@3"]
    assert Split.of({"goose": 1, "goose@10": 1, "goose@9": 1}).targets == ["goose@9", "goose@10", "goose"]


def test_a_restart_moves_no_session():
    split = Split.of({"goose@2": 3, "goose@3": 1})
    assert "".join(split.choose(session)[-1] for session in SESSIONS[:24]) == "222223222222232223223232"
