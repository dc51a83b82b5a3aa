"""Models that compete for memory: what goes, what waits, and for how long. Under a virtual clock."""

import pytest

from cortexd.errors import CannotFit, Unavailable
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.states import State
from cortexd.lifecycle.tidings import Measured
from tests.lifecycle.stage import ONE, Stage, serve


def test_an_idle_model_goes_for_one_that_is_asked_for():
    stage = Stage(ONE, host_tier=0)
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    serve(stage, goose, seconds=5)
    lease = serve(stage, swan)
    assert lease.evicted == ("goose",)
    assert lease.tier == "cold"
    assert stage.state(goose) is State.COLD
    evictions = [d for d in stage.decisions if d.kind == "evict"]
    assert [d.model for d in evictions] == ["goose"]
    assert "swan needs" in evictions[0].reason
    assert evictions[0].weighed[0].chosen
    stage.close()


def test_models_that_fit_together_stay_together():
    stage = Stage(ONE)
    goose, swan = stage.model("goose", cuda=40), stage.model("swan", cuda=40)
    serve(stage, goose)
    serve(stage, swan)
    assert (stage.state(goose), stage.state(swan)) == (State.READY, State.READY)
    stage.close()


def test_a_model_in_use_is_never_evicted_but_waited_for():
    stage = Stage(ONE, max_wait=1000)
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    held = stage.ask(goose)
    stage.clock.pass_time(5)
    waiting = stage.ask(swan)
    stage.clock.pass_time(100)
    stage.check()
    assert stage.state(goose) is State.READY
    assert not waiting.settled
    stage.leave(held)
    stage.clock.pass_time(70)
    assert stage.granted(waiting)
    (queued,) = [d.reason for d in stage.decisions if d.kind == "queue" and d.model == "swan"][-1:]
    assert queued.endswith("more are needed, and goose is in use by 1")
    stage.leave(waiting)
    stage.close()


def test_waiting_is_bounded_a_long_answer_is_suspended_and_goes_on_later():
    stage = Stage(ONE, max_wait=30, suspend_after=5)
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    endless = stage.ask(goose)
    stage.clock.pass_time(5)
    first_engine = endless.engine
    waiting = stage.ask(swan)
    stage.clock.pass_time(29)
    assert stage.state(goose) is State.READY
    stage.clock.pass_time(30 - 29 + 5 + 0.2 + 15 + 2)
    stage.check()
    assert stage.granted(waiting)
    assert stage.granted(endless)
    stage.leave(waiting)
    stage.clock.pass_time(120)
    adopted = [s for run in stage.runs for s in run.engine.adopted]
    assert [s.leases for s in adopted] == [[endless]]
    assert first_engine.run is not stage.runs[0]
    stage.leave(endless)
    stage.close()


def test_new_requests_do_not_keep_a_closed_model_open():
    stage = Stage(ONE, max_wait=30)
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    held = stage.ask(goose)
    stage.clock.pass_time(2)
    waiting = stage.ask(swan)
    for _ in range(200):  # a stream of requests, each beginning before the last one ends
        following = stage.ask(goose)
        stage.clock.pass_time(0.5)
        if stage.granted(held) or held.settled:
            stage.leave(held)
        held = following
        stage.check()
        if waiting.settled:
            break
    assert stage.granted(waiting)
    assert stage.clock.now - waiting.asked < 30 + 5 + 1 + 20
    stage.settle_all()
    stage.close()


def test_what_can_never_fit_is_refused_at_once_and_nothing_is_evicted_for_it():
    stage = Stage(ONE)
    goose, whale = stage.model("goose", cuda=80), stage.model("whale", cuda=200)
    serve(stage, goose)
    with pytest.raises(CannotFit, match=r"whale needs 220 B on cuda:0, and the budget there is 100 B"):
        stage.supervisor.lease(whale, owner="request")
    assert stage.state(goose) is State.READY
    stage.close()


def test_a_pinned_model_is_never_evicted_and_what_needs_its_memory_is_refused():
    stage = Stage(ONE)
    goose, swan = stage.model("goose", cuda=60, pin=True), stage.model("swan", cuda=50)
    serve(stage, goose)
    with pytest.raises(CannotFit, match="pinned"):
        stage.supervisor.lease(swan, owner="request")
    stage.clock.pass_time(10_000)
    assert stage.state(goose) is State.READY
    stage.close()


def test_what_was_used_last_stays_until_forecasts_have_proved_better_and_nobody_goes_in_vain():
    stage = Stage(ONE, host_tier=0)
    old, small, new = (stage.model(name, cuda=size) for name, size in (("old", 50), ("small", 10), ("new", 25)))
    for spec in (small, old, new):
        serve(stage, spec)
    stage.clock.pass_time(5)
    lease = serve(stage, stage.model("next", cuda=30))
    assert lease.evicted == ("old",), "small was not used for longer, but its memory would not do"
    stage.close()


def test_a_model_is_parked_first_and_comes_back_faster():
    stage = Stage(ONE, host_tier=20)
    goose, swan = stage.model("goose", cuda=80, seconds=4), stage.model("swan", cuda=70)
    serve(stage, goose, seconds=5)
    serve(stage, swan, seconds=5)
    assert stage.state(goose) is State.PARKED
    lease = serve(stage, goose)
    assert lease.tier == "parked"
    assert lease.load_ms < 1500
    assert stage.state(swan) is State.PARKED
    assert len(stage.runs) == 2, "the worker was kept"
    stage.close()


def test_the_host_holds_no_more_parked_models_than_its_budget():
    stage = Stage(ONE, host_tier=5)
    models = [stage.model(name, cuda=80) for name in ("a", "b", "c")]
    for spec in models:
        serve(stage, spec, seconds=5)
    assert [stage.state(spec) for spec in models] == [State.PARKED, State.COLD, State.READY]
    stage.close()


def test_a_worker_that_keeps_its_memory_when_parked_is_ended():
    stage = Stage(ONE)
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    serve(stage, goose, seconds=5)
    stage.runs[0].keeps_when_parked = {"cuda:0": 80}
    serve(stage, swan)
    assert stage.state(goose) is State.COLD
    assert any("kept 80 bytes" in d.reason for d in stage.decisions)
    stage.close()


def test_memory_of_an_unload_is_not_given_away_before_it_is_back():
    stage = Stage(ONE, host_tier=0, unload_grace=5)
    stage.seconds_of_stop = lambda: 60.0
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    serve(stage, goose, seconds=5)
    lease = stage.ask(swan)
    stage.clock.pass_time(4.9)
    assert stage.state(swan) is State.QUEUED
    assert stage.supervisor.view.memory()["cuda:0"].debt == 88
    stage.clock.pass_time(2)
    assert stage.granted(lease)
    stage.leave(lease)
    stage.close()


def test_two_models_that_alternate_on_a_budget_for_one_are_both_served():
    stage = Stage(ONE, host_tier=0)
    models = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    for turn in range(40):
        serve(stage, models[turn % 2], seconds=0.1)
    stage.close()


def test_two_crowds_that_compete_for_a_budget_for_one_are_both_served_in_time():
    stage = Stage(ONE, host_tier=0, max_wait=10, suspend_after=2)
    models = [stage.model("goose", cuda=80), stage.model("swan", cuda=70)]
    waits: list[float] = []
    for _ in range(2000):
        stage.ask(stage.random.choice(models))
        stage.clock.pass_time(0.1)
        for held in [held for held in stage.leases if held.settled and stage.random.random() < 0.3]:
            stage.leave(held)
        waits += [stage.clock.now - lease.asked for lease in stage.leases if not lease.settled]
        stage.check()
    assert max(waits) < 10 + 2 + 15 + 10 + 5
    stage.settle_all()
    stage.close()


def test_a_predicted_load_never_evicts():
    stage = Stage(ONE)
    goose, swan, duck = stage.model("goose", cuda=60), stage.model("swan", cuda=50), stage.model("duck", cuda=20)
    serve(stage, goose, seconds=5)
    predicted = stage.ask(swan, priority=Priority.PREDICTED)
    stage.clock.pass_time(50)
    assert stage.state(goose) is State.READY
    assert not predicted.settled
    stage.leave(predicted)
    fits = stage.ask(duck, priority=Priority.PREDICTED)
    stage.clock.pass_time(5)
    assert stage.granted(fits)
    stage.leave(fits)
    stage.close()


def test_requests_come_before_a_preload_but_do_not_starve_it():
    stage = Stage(ONE, parallel_loads=1, host_tier=0)
    first, request, preload = (stage.model(n, cuda=10, seconds=30) for n in ("first", "request", "preload"))
    busy = stage.ask(first)
    early = stage.ask(preload, priority=Priority.PRELOAD)
    stage.clock.pass_time(5)
    late = stage.ask(request)
    stage.clock.pass_time(35)
    assert not early.settled
    stage.clock.pass_time(20)
    assert stage.granted(late)
    stage.clock.pass_time(40)
    assert stage.granted(early)
    for lease in (busy, early, late):
        stage.leave(lease)
    stage.close()


def test_a_load_outlives_its_last_waiter_for_a_while_and_is_then_abandoned():
    stage = Stage(ONE, linger=3)
    goose = stage.model("goose", cuda=10, seconds=100)
    stage.leave(stage.ask(goose))
    stage.clock.pass_time(2.9)
    assert stage.state(goose) is State.LOADING
    again = stage.ask(goose)
    stage.clock.pass_time(10)
    assert stage.state(goose) is State.LOADING
    stage.leave(again)
    stage.clock.pass_time(3.2)
    assert stage.state(goose) is State.COLD
    assert [d.kind for d in stage.decisions if d.model == "goose"][-2:] == ["abandon", "unload"]
    stage.close()


def test_a_load_that_is_nearly_done_is_finished_though_nobody_wants_it():
    stage = Stage(ONE, linger=3)
    goose = stage.model("goose", cuda=10, seconds=20)
    lease = stage.ask(goose)
    stage.clock.pass_time(18.5)
    stage.leave(lease)
    stage.clock.pass_time(3)
    assert stage.state(goose) is State.READY
    stage.close()


def test_a_request_that_gives_up_gives_back_what_was_closed_for_it():
    stage = Stage(ONE, max_wait=10, suspend_after=60)
    goose, swan = stage.model("goose", cuda=80), stage.model("swan", cuda=70)
    held = stage.ask(goose)
    stage.clock.pass_time(5)
    waiting = stage.ask(swan)
    stage.clock.pass_time(11)
    assert stage.state(goose) is State.DRAINING
    late = stage.ask(goose)
    assert not late.settled
    stage.leave(waiting)
    assert stage.state(goose) is State.READY
    assert stage.granted(late)
    assert late.engine is held.engine
    stage.leave(held)
    stage.leave(late)
    stage.close()


def test_a_model_that_ran_out_of_memory_is_tried_with_half_the_batch():
    stage = Stage(ONE)
    goose = stage.model("goose", cuda=10)
    serve(stage, goose)
    stage.runs[0].die("killed by SIGKILL", out_of_memory=True)
    serve(stage, goose)
    assert stage.runs[0].spec.max_concurrency == goose.max_concurrency // 2
    for _ in range(20):
        if not stage.runs[0].alive:
            break
        stage.runs[0].die("killed by SIGKILL", out_of_memory=True)
        if stage.ask(goose) is None:
            break
        stage.clock.pass_time(2)
    assert stage.runs[0].spec.max_concurrency == 1
    assert stage.state(goose) is State.FAILED
    stage.settle_all()
    stage.close()


def test_a_worker_that_grows_beyond_all_expectation_is_ended_alone():
    stage = Stage(ONE)
    goose, swan = stage.model("goose", cuda=40), stage.model("swan", cuda=40)
    serve(stage, goose)
    held = stage.ask(swan)
    stage.clock.pass_time(2)
    next(run for run in stage.runs if run.spec.name == "goose").tell(Measured({"cuda:0": 90}))
    stage.clock.pass_time(1)
    assert stage.state(goose) in (State.COLD, State.UNLOADING)
    assert stage.state(swan) is State.READY
    stage.leave(held)
    stage.close()


def test_memory_that_other_programs_take_lets_idle_models_go_and_is_told_to_who_waits():
    stage = Stage(ONE, max_wait=10, host_tier=0)
    goose, swan = stage.model("goose", cuda=40), stage.model("swan", cuda=40)
    serve(stage, goose, seconds=5)
    stage.supervisor.note_foreign("cuda:0", 80)
    stage.clock.pass_time(10)
    assert stage.state(goose) is State.COLD
    waiting = stage.ask(swan)
    stage.clock.pass_time(11)
    assert waiting.settled
    with pytest.raises(Unavailable, match="other programs"):
        waiting._granted()
    stage.leave(waiting)
    stage.close()
