"""The invariants of the supervisor, under whatever may happen in whatever order."""

import os

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import CortexdError
from cortexd.lifecycle import tidings as told
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.states import HELD
from tests.lifecycle.stage import FACTS, Stage

CEILINGS = {"cuda:0": 100, "cpu": 60}
SEEDS = range(100 if os.environ.get("CORTEXD_EVERY_SEED") else 30)  # all in CI and `make soak`
EVENTS = 10_000


def models_of(stage: Stage) -> list[ModelSpec]:
    """Some that fit together, some that exclude each other, one on the host alone, one that can never fit, and a twin."""
    goose = stage.model("goose", cuda=70, cpu=3, seconds=2.0)
    stage.sizes["twin"] = stage.sizes["goose"]
    return [
        goose,
        stage.model("swan", cuda=55, cpu=3, seconds=1.0),
        stage.model("duck", cuda=25, cpu=2, seconds=0.3),
        stage.model("teal", cuda=20, cpu=2, seconds=0.2),
        stage.model("wren", cpu=30, seconds=0.5),
        stage.model("whale", cuda=400, seconds=9.0),
        msgspec.structs.replace(goose, name="twin"),
    ]


class Tower(RuleBasedStateMachine):
    """The actions are those of clients, of engines, of the administrator and of time."""

    @initialize(
        seed=st.integers(0, 1000), host_tier=st.sampled_from((0, 5, 20)), keep_alive=st.sampled_from((0.0, 5.0, 60.0))
    )
    def build(self, seed: int, host_tier: int, keep_alive: float) -> None:
        self.stage = Stage(CEILINGS, seed, host_tier=host_tier, keep_alive=keep_alive, max_wait=10, load_stall=20)
        self.specs = models_of(self.stage)

    @rule(
        index=st.integers(0, 6), priority=st.sampled_from(Priority), keep_alive=st.sampled_from((None, 0.0, 3.0, -1.0))
    )
    def ask(self, index: int, priority: Priority, keep_alive: float | None) -> None:
        self.stage.ask(self.specs[index], priority=priority, keep_alive=keep_alive)

    @rule(seconds=st.sampled_from((0.01, 0.2, 1.0, 5.0, 40.0)))
    def wait(self, seconds: float) -> None:
        self.stage.clock.pass_time(seconds)

    @precondition(lambda self: self.stage.leases)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.stage.leave(data.draw(st.sampled_from(self.stage.leases)))

    @precondition(lambda self: any(run.alive for run in self.stage.runs))
    @rule(data=st.data(), out_of_memory=st.booleans())
    def crash(self, data: st.DataObject, out_of_memory: bool) -> None:
        data.draw(st.sampled_from([run for run in self.stage.runs if run.alive])).die("killed", out_of_memory)

    @precondition(lambda self: any(run.gone for run in self.stage.runs))
    @rule(
        data=st.data(),
        news=st.sampled_from(
            (
                told.Loaded(FACTS),
                told.Probed(),
                told.Stopped(),
                told.Ended("late"),
                told.Parked({}),
                told.Measured({}),
            )
        ),
    )
    def stale(self, data: st.DataObject, news: told.Tidings) -> None:
        before = [(key, model.state) for key, model in self.stage.supervisor.models.items()]
        data.draw(st.sampled_from([run for run in self.stage.runs if run.gone])).tell_stale(news)
        assert [(key, model.state) for key, model in self.stage.supervisor.models.items()] == before

    @rule(index=st.integers(0, 4), what=st.sampled_from(("unload", "force", "park", "pin", "unpin", "plan")))
    def administer(self, index: int, what: str) -> None:
        administer(self.stage, self.specs[index], what)

    @rule(index=st.integers(0, 4), version=st.integers(1, 3))
    def change(self, index: int, version: int) -> None:
        self.specs[index] = msgspec.structs.replace(self.specs[index], weights=str(version))
        if index == 0:
            self.specs[6] = msgspec.structs.replace(self.specs[0], name="twin")
        unchanged = {spec.hash: self.stage.state(spec) for spec in self.specs}
        busy = {key for key, model in self.stage.supervisor.models.items() if model.leases and model.names}
        self.stage.supervisor.reconcile(self.specs)
        for key in busy & unchanged.keys():
            assert self.stage.supervisor.models[key].state is unchanged[key], "an unchanged model was touched"

    @rule(index=st.integers(0, 6))
    def miss(self, index: int) -> None:
        """A scan of the directories does not see one of them."""
        self.stage.supervisor.reconcile([spec for number, spec in enumerate(self.specs) if number != index])

    @rule(index=st.integers(0, 4), script=st.sampled_from(("", "", "breaks", "stalls")))
    def write_script(self, index: int, script: str) -> None:
        self.stage.scripts[self.specs[index].name] = script

    @rule(count=st.sampled_from((0, 0, 30, 90)))
    def others_grow(self, count: int) -> None:
        self.stage.supervisor.note_foreign("cuda:0", count)

    @invariant()
    def all_holds(self) -> None:
        if hasattr(self, "stage"):
            self.stage.check()

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        if stage.random.random() < 0.3:  # the daemon ends in the middle of it all
            stage.close()
            return
        stage.scripts.clear()
        stage.supervisor.note_foreign("cuda:0", 0)
        for spec in self.specs:
            administer(stage, spec, "unpin")
        stage.settle_all()
        stage.close()


TestTower = Tower.TestCase
TestTower.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def administer(stage: Stage, spec: ModelSpec, what: str) -> None:
    admin = stage.administration
    try:
        match what:
            case "force":
                stage.forced.add(spec.hash)
                admin.unload(spec, force=True)
            case "unload":
                admin.unload(spec, force=False)
            case "plan":
                admin.plan(spec)
            case _:
                getattr(admin, what)(spec)
    except CortexdError:
        pass


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_thousand_random_events_leave_nobody_unanswered_and_nothing_in_the_ledger(seed: int):
    stage = Stage(CEILINGS, seed, max_wait=10, load_stall=20, host_tier=(0, 5, 20)[seed % 3])
    random, specs = stage.random, models_of(stage)
    for number in range(EVENTS):
        _act(stage, specs, random.random())
        if number % 20 == 0:
            stage.check()
        if len(stage.moves) > 1000:
            stage.moves.clear()
            stage.decisions.clear()
    stage.scripts.clear()
    stage.supervisor.note_foreign("cuda:0", 0)
    for spec in specs:
        administer(stage, spec, "unpin")
    stage.settle_all()
    stage.close()
    assert not any(model.state in HELD for model in stage.supervisor.models.values())


def _act(stage: Stage, specs: list[ModelSpec], dice: float) -> None:
    random = stage.random
    index = min(int(random.paretovariate(0.8)) - 1, 6)
    if dice < 0.30:
        stage.ask(
            specs[index],
            priority=Priority(random.choice((0, 0, 0, 1, 2, 3))),
            keep_alive=random.choice((None, None, 0.0, 9.0)),
        )
    elif dice < 0.60:
        if stage.leases:
            stage.leave(random.choice(stage.leases))
    elif dice < 0.95:
        stage.clock.pass_time(random.expovariate(2.0))
    elif dice < 0.97:
        alive = [run for run in stage.runs if run.alive]
        if alive:
            random.choice(alive).die("killed", random.random() < 0.2)
    elif dice < 0.98:
        spec = specs[random.randrange(5)]
        stage.scripts[spec.name] = random.choice(("", "", "", "breaks", "stalls"))
    elif dice < 0.985:
        index = random.randrange(5)
        specs[index] = msgspec.structs.replace(specs[index], weights=str(random.randrange(3)))
        specs[6] = msgspec.structs.replace(specs[0], name="twin")
        stage.supervisor.reconcile(specs if random.random() < 0.7 else specs[1:])
    elif dice < 0.99:
        administer(
            stage, specs[random.randrange(5)], random.choice(("unload", "force", "park", "pin", "unpin", "unpin"))
        )
    elif dice < 0.995:
        stage.supervisor.note_foreign("cuda:0", random.choice((0, 0, 0, 40)))
    else:
        stage.clock.pass_time(60.0)
