"""The soak tests, shortened; `make soak` runs the whole."""

import pytest

from tests.end_to_end import traffic
from tests.end_to_end.soak import soak


async def test_workers_killed_at_random_leave_no_client_without_an_answer_and_nothing_behind():
    outcome = await soak(kills=12, clients=16, seed=1)
    assert outcome.problems == []
    assert outcome.kills == 12
    assert outcome.answers.keys() & {"stop", "length"}


@pytest.mark.minutes
async def test_two_minutes_of_everything_at_once_leave_memory_flat_and_every_answer_what_it_should_be():
    outcome = await traffic.soak(seconds=120, seed=1)
    assert outcome.problems == []
    assert outcome.evictions > 0
    assert outcome.ended.keys() == {"short", "seeded", "long", "cancelled", "conversation", "refused"}
