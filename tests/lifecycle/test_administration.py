"""What an administrator may ask for. Under a virtual clock."""

import pytest

from cortexd.errors import CannotFit, Conflict
from cortexd.lifecycle.states import State
from tests.lifecycle.stage import ONE, Stage, serve


def test_a_pin_that_cannot_be_kept_is_refused_with_the_arithmetic():
    stage = Stage(ONE)
    goose, swan = stage.model("goose", cuda=60), stage.model("swan", cuda=50)
    stage.administration.pin(goose)
    with pytest.raises(CannotFit, match=r"pinned are goose"):
        stage.administration.pin(swan)
    stage.administration.unpin(goose)
    stage.administration.pin(swan)
    stage.close()


def test_an_administrator_may_unload_by_force_but_is_told_who_waits():
    stage = Stage(ONE)
    goose = stage.model("goose", cuda=40, seconds=10)
    waiting = stage.ask(goose)
    with pytest.raises(Conflict, match="1 requests wait"):
        stage.administration.unload(goose, force=False)
    stage.administration.unload(goose, force=True)
    stage.clock.pass_time(1)
    assert waiting.settled
    assert not stage.granted(waiting)
    assert stage.state(goose) is State.COLD
    stage.leave(waiting)
    stage.close()


def test_a_plan_says_what_would_happen_and_changes_nothing():
    stage = Stage(ONE, host_tier=0)
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    serve(stage, goose, seconds=5)
    plan = stage.administration.plan(swan)
    assert [(step.does, step.model) for step in plan.steps] == [("evict", "goose"), ("load", "swan")]
    assert plan.needed["cuda:0"] == 77
    assert stage.state(goose) is State.READY
    assert swan.hash not in stage.supervisor.models
    assert [step.does for step in stage.administration.plan(goose).steps] == ["nothing"]
    stage.close()
