"""The soak test, shortened; `make soak` runs the whole."""

from tests.end_to_end.soak import soak


async def test_workers_killed_at_random_leave_no_client_without_an_answer_and_nothing_behind():
    outcome = await soak(kills=12, clients=16, seed=1)
    assert outcome.problems == []
    assert outcome.kills == 12
    assert outcome.answers.keys() & {"stop", "length"}
