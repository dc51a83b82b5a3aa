"""A target that does worse is named within 200 of its requests; one that does not is left alone in 99 of 100 trials."""

import math
from collections.abc import Callable
from random import Random

import pytest

from cortexd.lifecycle.trial import FALSE_ALARMS, HORIZON, Outcome, Trial, Verdict

OLD, NEW = "goose@17", "goose@18"
GOOD = Outcome(first_token_ms=100.0)

Draw = Callable[[Random, bool, int], Outcome]  # of whether it is the new one's, and how many there were before


def requests(failing: tuple[float, float] = (0.01, 0.01), slower: float = 1.0, spread: float = 0.5) -> Draw:
    """`failing`: shares of the old one's and the new one's; `spread`: of the logarithm of times to the first token."""

    def draw(random: Random, is_new: bool, _: int) -> Outcome:
        failed = random.random() < failing[is_new]
        ms = 200 * math.exp(random.gauss(0, spread)) * (slower if is_new else 1)
        return Outcome(failed=failed, first_token_ms=None if failed else ms)

    return draw


def bad_times(random: Random, is_new: bool, number: int) -> Outcome:
    """Load comes and goes, and now and then half of all requests fail: of both alike."""
    failed = random.random() < (0.5 if number % 1000 < 50 else 0.01)
    ms = 200 * math.exp(random.gauss(0, 1)) * (1 + 0.9 * math.sin(number / 300))
    return Outcome(failed=failed, first_token_ms=None if failed else ms)


def bursts(random: Random, is_new: bool, number: int) -> Outcome:
    """Twenty come at a time, and each waits for those before it."""
    return Outcome(first_token_ms=50.0 * (1 + number % 20))


def tried(draw: Draw, seed: int, share: float, *, most: int, most_new: int = HORIZON) -> tuple[Verdict | None, int]:
    """The verdict, and after how many of the new one's requests it came."""
    random, trial, new = Random(seed), Trial([OLD, NEW]), 0
    for number in range(most):
        is_new = random.random() < share
        new += is_new
        trial.note(NEW if is_new else OLD, draw(random, is_new, number))
        if trial.verdict() is not None or new == most_new:
            break
    return trial.verdict(), new


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize(
    ("draw", "cause"),
    [
        (requests(failing=(0.01, 0.2)), "failures"),
        (requests(slower=2), "first_token"),
        (requests(slower=2, spread=1), "first_token"),
    ],
    ids=["failing", "slower", "slower and noisy"],
)
def test_what_does_worse_is_found_within_200_requests(draw: Draw, cause: str, share: float):
    seeds = 100
    verdicts = [tried(draw, seed, share, most=10_000, most_new=200)[0] for seed in range(seeds)]
    found = [verdict for verdict in verdicts if verdict is not None and verdict.cause == cause]
    assert len(found) >= 0.95 * seeds
    assert {verdict.target for verdict in found} == {NEW}


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize(
    "draw",
    [requests(), requests(failing=(0.3, 0.3), spread=2), bad_times, bursts],
    ids=["alike", "both bad", "bad times", "bursts"],
)
def test_what_does_no_worse_is_left_alone(draw: Draw, share: float):
    seeds = 100
    wrong = [seed for seed in range(seeds) if tried(draw, seed, share, most=2000)[0] is not None]
    assert len(wrong) <= FALSE_ALARMS * seeds


@pytest.mark.parametrize(
    "draw", [requests(failing=(0.2, 0.01)), requests(slower=0.5)], ids=["failures", "first tokens"]
)
def test_what_does_better_is_left_alone(draw: Draw):
    assert not [seed for seed in range(30) if tried(draw, seed, 0.2, most=2000)[0] is not None]


def conversed(seed: int, slower: float, *, most: int) -> Verdict | None:
    """The verdict where there are ten sessions at a time, each with prompts of its own length, of twenty requests."""
    random, trial, begun = Random(seed), Trial([OLD, NEW]), 0
    sessions: dict[int, tuple[str, bool, float]] = {}
    for _ in range(most):
        place = random.randrange(10)
        if place not in sessions or random.random() < 1 / 20:
            begun += 1
            sessions[place] = (f"session {begun}", random.random() < 0.2, random.gauss(0, 0.8))
        session, is_new, length = sessions[place]
        ms = 200 * math.exp(length + random.gauss(0, 0.4)) * (slower if is_new else 1)
        trial.note(NEW if is_new else OLD, Outcome(first_token_ms=ms, session=session))
    return trial.verdict()


def test_it_is_targets_that_are_compared_not_their_sessions():
    assert sum(conversed(seed, 1, most=2000) is not None for seed in range(100)) <= FALSE_ALARMS * 100
    assert all(conversed(seed, 3, most=10_000) is not None for seed in range(10))


def test_a_session_counts_again_after_long():
    trial = Trial([OLD, NEW])
    for number in range(2 * HORIZON):
        is_new = number % 5 == 0
        trial.note(NEW if is_new else OLD, Outcome(first_token_ms=500.0 if is_new else 100.0, session=str(number % 50)))
    verdict = trial.verdict()
    assert verdict is not None
    assert verdict.cause == "first_token"


def test_all_failures_of_a_session_count():
    trial = Trial([OLD, NEW])
    for _ in range(20):
        trial.note(OLD, GOOD)
        trial.note(NEW, Outcome(failed=True, session="the only one"))
    assert trial.verdict() is not None


def test_a_difference_that_does_no_harm_is_none():
    """However sure it is: a tenth slower, or five times as slow but a few milliseconds."""
    for ms in ((200.0, 220.0), (2.0, 10.0)):
        trial = Trial([OLD, NEW])
        for number in range(1000):
            trial.note(NEW if number % 3 == 0 else OLD, Outcome(first_token_ms=ms[number % 3 == 0]))
        assert trial.verdict() is None


def test_a_target_that_has_never_loaded_is_taken_away_when_it_cannot_be():
    trial = Trial([OLD, NEW])
    trial.note(NEW, Outcome(loaded=False, failed=True))
    assert trial.verdict() == Verdict(NEW, "load", "goose@18 could not be loaded, and never has been.")


@pytest.mark.parametrize("before", [Outcome(loaded=True, failed=True), GOOD], ids=["loaded", "was ready"])
def test_a_load_that_fails_later_is_a_failure_among_others(before: Outcome):
    trial = Trial([OLD, NEW])
    trial.note(NEW, before)
    for _ in range(20):
        trial.note(OLD, GOOD)
    trial.note(NEW, Outcome(loaded=False, failed=True))
    assert trial.verdict() is None
    for _ in range(10):
        trial.note(NEW, Outcome(loaded=False, failed=True))
    verdict = trial.verdict()
    assert verdict is not None
    assert verdict.cause == "failures"


def test_the_baseline_is_never_taken_away():
    trial = Trial([OLD, NEW])
    trial.note(OLD, Outcome(loaded=False, failed=True))
    for _ in range(100):
        trial.note(OLD, Outcome(failed=True))
        trial.note(NEW, GOOD)
    assert trial.verdict() is None


def test_a_verdict_gives_the_figures_and_stands():
    trial = Trial([OLD, NEW])
    for number in range(60):
        trial.note(OLD, Outcome(failed=number == 0))
    while trial.verdict() is None:
        trial.note(NEW, Outcome(failed=True))
    verdict = Verdict(NEW, "failures", "goose@18 failed 3 of 3 requests, goose@17 1 of 60.")
    assert trial.verdict() == verdict
    for _ in range(1000):
        trial.note(NEW, GOOD)
    assert trial.verdict() == verdict


def test_a_slow_target_is_named_with_both_medians():
    verdict, _ = tried(lambda _, is_new, number: Outcome(first_token_ms=410.0 if is_new else 200.0), 0, 0.2, most=2000)
    assert verdict == Verdict(NEW, "first_token", "goose@18 took 410 ms to the first token, goose@17 200 ms (medians).")


def test_of_several_targets_the_one_that_does_worse_is_named():
    random, trial = Random(0), Trial([OLD, NEW, "goose@19"])
    for _ in range(2000):
        target = random.choices([OLD, NEW, "goose@19"], [8, 1, 1])[0]
        trial.note(target, Outcome(failed=random.random() < (0.2 if target == "goose@19" else 0.01)))
    verdict = trial.verdict()
    assert verdict is not None
    assert verdict.target == "goose@19"


def test_what_becomes_worse_after_long_is_found_too():
    random, trial = Random(0), Trial([OLD, NEW])
    bad = 0
    for number in range(10 * HORIZON):
        is_new = random.random() < 0.2
        was_good = number < 8 * HORIZON
        bad += is_new and not was_good
        trial.note(NEW if is_new else OLD, Outcome(failed=is_new and not was_good and random.random() < 0.2))
        if trial.verdict() is not None:
            break
    assert 0 < bad < 200


def test_requests_to_other_targets_and_trials_of_one_say_nothing():
    trial = Trial([OLD])
    for target in (OLD, NEW):
        trial.note(target, Outcome(loaded=False, failed=True))
    assert trial.verdict() is None


def test_mistakes_of_clients_and_those_who_left_do_not_count():
    assert [Outcome.of(status, first_token_ms=9.0) for status in (400, 404, 429, 499)] == [None] * 4
    answered = Outcome.of(200, loaded=True, first_token_ms=9.0, session="s")
    assert answered == Outcome(loaded=True, first_token_ms=9.0, session="s")
    assert Outcome.of(503, loaded=False) == Outcome(loaded=False, failed=True)
    assert Outcome.of(500, first_token_ms=9.0) == Outcome(failed=True)
