"""Which models there are and what they go by, while they are in use. Under a virtual clock."""

import msgspec

from cortexd.lifecycle.states import State
from tests.lifecycle.stage import ONE, Stage


def test_an_unchanged_model_never_notices_a_reload():
    stage = Stage(ONE)
    goose, swan = stage.model("goose", cuda=30), stage.model("swan", cuda=30)
    held, other = stage.ask(goose), stage.ask(swan)
    stage.clock.pass_time(5)
    stage.supervisor.reconcile([goose, stage.model("swan", cuda=30, version=2)])
    assert stage.state(goose) is State.READY
    assert stage.state(swan) is State.DRAINING
    stage.check()
    stage.leave(other)
    stage.clock.pass_time(70)
    assert swan.hash not in stage.supervisor.models
    assert stage.state(goose) is State.READY
    stage.leave(held)
    stage.close()


def test_two_names_of_the_same_weights_share_a_worker():
    stage = Stage(ONE)
    goose = stage.model("goose", cuda=60)
    twin = msgspec.structs.replace(goose, name="twin")
    first, second = stage.ask(goose), stage.ask(twin)
    stage.clock.pass_time(5)
    assert first.engine is second.engine
    assert len(stage.runs) == 1
    stage.supervisor.reconcile([twin])
    stage.check()
    assert stage.state(twin) is State.READY
    stage.leave(first)
    stage.leave(second)
    stage.close()
