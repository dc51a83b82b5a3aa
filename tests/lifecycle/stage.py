"""The real supervisor under a virtual clock, over engines that hold bytes and obey a script; and what must hold at any moment."""

import heapq
import itertools
import random
from collections.abc import Callable

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import EngineFacts
from cortexd.errors import CortexdError, LoadFailed
from cortexd.events import Decided, Event, ModelMoved
from cortexd.lifecycle import tidings as told
from cortexd.lifecycle.administration import Administration
from cortexd.lifecycle.deadlines import pinned
from cortexd.lifecycle.history import History
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.policy import Policy, Priority
from cortexd.lifecycle.states import HELD, LEGAL, LOADS, State
from cortexd.lifecycle.supervisor import Supervisor

DEVICES = ("cuda:0", "cpu")
ONE = {"cuda:0": 100, "cpu": 100}  # ceilings, of a machine with one GPU
PARKED_BYTES = 5
FACTS = EngineFacts(
    description="staged", context=1000, loaded_bytes=1, parks=True, parked_bytes=PARKED_BYTES, suspends=True
)


class VirtualTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Implements `cortexd.lifecycle.clock.Clock`; time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._count = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> VirtualTimer:
        timer = VirtualTimer(callback)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def call_later(self, delay: float, callback: Callable[[], object]) -> VirtualTimer:
        return self.call_at(self.now + delay, callback)

    def next_time(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def step(self) -> bool:
        """To the next timer, which is called; False where there is none."""
        if (when := self.next_time()) is None:
            return False
        timer = heapq.heappop(self._timers)[2]
        self.now = max(self.now, when)
        callback, timer.callback = timer.callback, None
        assert callback is not None
        callback()
        return True

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (when := self.next_time()) is not None and when <= until:
            self.step()
        self.now = until


class StagedSuspension:
    def __init__(self, leases: list[Lease]) -> None:
        self.leases = leases
        self.adopted = False
        self.error: CortexdError | None = None
        self.size = 1

    def fail(self, error: CortexdError) -> None:
        if not self.adopted:
            self.error = error


class StagedEngine:
    """What a lease hands out: only knows whether it still computes."""

    def __init__(self, run: "StagedRun") -> None:
        self.run = run
        self.adopted: list[StagedSuspension] = []

    def adopt(self, suspension: StagedSuspension) -> None:
        assert suspension.error is None
        assert not suspension.adopted
        suspension.adopted = True
        self.adopted.append(suspension)


class StagedRun:
    """Implements `cortexd.lifecycle.managed_model.Run`. It holds its bytes from `start` until it has ended."""

    def __init__(self, stage: "Stage", spec: ModelSpec, tell: Callable[[told.Tidings], None]) -> None:
        self.stage, self.spec = stage, spec
        self.key = next(m.key for m in stage.supervisor.models.values() if m.state is State.LOADING and m.run is None)
        self.engine = StagedEngine(self)
        self.held: dict[str, int] = {}
        self.alive = False
        self.gone = False  # nothing of it is left, and all has been told
        self.crashed = False
        self.told_to_stop = False
        self.suspending = self.suspended = False
        self.keeps_when_parked = {"cpu": PARKED_BYTES}
        self.stopping: VirtualTimer | None = None
        self.tell = tell
        self._pending: list[VirtualTimer] = []

    def pids(self) -> list[int]:
        return []

    def start(self) -> None:
        self.alive = True
        self._load(self.stage.seconds_of_load(self.spec))

    def resume(self) -> None:
        assert self.alive
        self._load(self.stage.seconds_of_load(self.spec) / 4)

    def park(self) -> None:
        self._later(0.1, self._parked)

    def suspend(self) -> None:
        assert not self.suspending
        self.suspending = True
        self.stage.clock.call_later(0.1, self._suspended)  # on its way, whatever it is told meanwhile

    def stop(self, grace: float) -> None:
        self.told_to_stop, self.gone = True, False
        self._forget()
        if self.stopping is not None:
            self.stopping.cancel()
        takes = min(grace, self.stage.seconds_of_stop())
        self.stopping = self.stage.clock.call_later(takes, self._stopped)

    def kill(self, reason: str, out_of_memory: bool = False) -> None:
        self._forget()
        self._later(0.01, lambda: self.die(reason, out_of_memory))

    def die(self, reason: str = "killed by SIGKILL", out_of_memory: bool = False) -> None:
        """By itself: whatever it was doing."""
        if not self.alive or self.told_to_stop:
            return
        self.alive, self.crashed, self.held = False, True, {}
        self._forget()
        self.gone = True
        self.tell(told.Ended(reason, out_of_memory))

    def tell_stale(self, news: told.Tidings) -> None:
        """After its end: must change nothing."""
        assert self.gone
        self.tell(news)

    def _load(self, seconds: float) -> None:
        self.held = self.stage.true_bytes(self.spec)
        script = self.stage.script_of(self.spec)
        if script == "stalls":
            return
        for percent in 25, 50, 75:
            self._later(seconds * percent / 100, lambda f=percent / 100: self.tell(told.Progressed("reading", f)))
        if script == "breaks":
            self._later(seconds * 0.8, self._broke)
            return
        self._later(seconds * 0.9, lambda: self.tell(told.Loaded(FACTS)))
        self._later(seconds, lambda: self.tell(told.Probed()))

    def _broke(self) -> None:
        self.alive, self.crashed, self.gone, self.held = False, True, True, {}
        self._forget()
        self.tell(told.LoadBroke(LoadFailed(f"{self.spec.name} is cut off.")))

    def _parked(self) -> None:
        self.held = dict(self.keeps_when_parked)
        self.tell(told.Parked(dict(self.held)))

    def _suspended(self) -> None:
        if self.crashed:
            return
        leases = [lease for lease in self.stage.held_leases() if lease.engine is self.engine]
        self.suspended = True
        suspension = StagedSuspension(leases)
        self.stage.suspensions.append(suspension)
        self.tell(told.Suspended(suspension))

    def _stopped(self) -> None:
        self.alive, self.gone, self.held = False, True, {}
        self.tell(told.Stopped())

    def _later(self, delay: float, what: Callable[[], object]) -> None:
        self._pending.append(self.stage.clock.call_later(delay, what))

    def _forget(self) -> None:
        for timer in self._pending:
            timer.cancel()
        self._pending.clear()


class Stage:
    """Models with sizes by device, requests that come and go, and the invariants."""

    def __init__(self, ceilings: dict[str, int], seed: int = 0, **policy: float) -> None:
        self.clock = VirtualClock()
        self.random = random.Random(seed)
        self.ceilings = ceilings
        self.sizes: dict[str, dict[str, int]] = {}  # by name of the model
        self.scripts: dict[str, str] = {}
        self.runs: list[StagedRun] = []
        self.suspensions: list[StagedSuspension] = []
        self.leases: list[Lease] = []  # asked for and not released
        self.forced: set[str] = set()  # keys of models that were ended by force
        self.moves: list[ModelMoved] = []
        self.decisions: list[Decided] = []
        self.bugs: list[BaseException] = []
        self.refusals = self.grants = 0
        self.longest_wait = 0.0
        rules = msgspec.convert({"keep_alive": 60.0, "host_tier": 20, **policy}, Policy, strict=False)
        self.history = History(lambda spec: dict(self.sizes[spec.name]), now=self.clock.time)
        self.supervisor = Supervisor(
            self._make_run, rules, self.history, ceilings, self.clock, self._note, self.bugs.append
        )
        self.administration = Administration(self.supervisor)

    def model(self, name: str, *, version: int = 1, seconds: float = 1.0, pin: bool = False, **sizes: int) -> ModelSpec:
        """A model that needs these bytes: `cuda=30, cpu=2`."""
        self.sizes[name] = {"cuda:0": sizes.get("cuda", 0), "cpu": sizes.get("cpu", 0)}
        return ModelSpec(
            name=name, source="file", path=f"/{name}", weights=str(version), size=int(seconds * 1000), pin=pin
        )

    def ask(self, spec: ModelSpec, **how: object) -> Lease | None:
        """A request; None where it was refused at once."""
        try:
            lease = self.supervisor.lease(spec, owner=f"request {len(self.leases)}", **how)  # pyright: ignore[reportArgumentType]
        except CortexdError:
            self.refusals += 1
            return None
        self.leases.append(lease)
        return lease

    def leave(self, lease: Lease) -> None:
        lease.release()
        self.leases.remove(lease)

    def granted(self, lease: Lease) -> bool:
        return lease.settled and isinstance(lease._outcome, tuple)

    def held_leases(self) -> list[Lease]:
        return [lease for lease in self.leases if self.granted(lease)]

    def state(self, spec: ModelSpec) -> State:
        model = self.supervisor.models.get(spec.hash)
        return model.state if model is not None else State.COLD

    def seconds_of_load(self, spec: ModelSpec) -> float:
        return spec.size / 1000

    def seconds_of_stop(self) -> float:
        return self.random.choice((0.01, 0.1, 60.0))  # the last never ends by itself

    def true_bytes(self, spec: ModelSpec) -> dict[str, int]:
        return dict(self.sizes[spec.name])

    def script_of(self, spec: ModelSpec) -> str:
        return self.scripts.get(spec.name, "")

    def check(self) -> None:
        """What must hold at any moment."""
        assert not self.bugs
        self._check_memory()
        self._check_leases()
        for model in self.supervisor.models.values():
            assert (model.run is not None) == (model.state in HELD), (model.state, model.run)
            if model.state is State.READY:
                assert not model.waiters, "whoever waits for a model is leased in the step that makes it ready"
            if model.state in (State.COLD, State.FAILED):
                assert not model.waiters
                assert not model.leases
            if model.state is State.QUEUED:
                assert model.wanted

    def _check_memory(self) -> None:
        ledger = self.supervisor.view.memory()
        for device, ceiling in self.ceilings.items():
            true = sum(run.held.get(device, 0) for run in self.runs if run.alive)
            assert true <= ceiling, f"{true} of {ceiling} bytes are used on {device}"
            entry = ledger[device]
            assert true <= entry.resident + entry.reserved + entry.debt, "the ledger has lost something"

    def _check_leases(self) -> None:
        for lease in self.leases:
            if not self.granted(lease):
                continue
            run = lease.engine.run  # pyright: ignore[reportAttributeAccessIssue]
            model = self.supervisor.models.get(run.key)
            if model is not None and lease in model.suspended:
                continue
            excused = run.crashed or run.suspended or run.key in self.forced
            assert excused or (run.alive and not run.told_to_stop), f"a model was taken away from {lease.owner}"

    def settle_all(self) -> None:
        """Everybody leaves once served, mere wishes at once, as they may wait for ever: every lease must be answered."""
        for _ in range(100_000):
            for lease in [lease for lease in self.leases if lease.settled or lease.priority > Priority.ADMIN]:
                self.leave(lease)
            if not self.leases and self.supervisor.view.quiet():
                break
            if not self.clock.step():
                break
        assert not self.leases, self.supervisor.view.wait_graph()

    def close(self) -> None:
        self.supervisor.begin_close()
        self.clock.pass_time(5.0)
        self.supervisor.end_all()
        self.clock.pass_time(60.0)
        assert self.supervisor.view.quiet()
        for entry in self.supervisor.view.memory().values():
            assert (entry.resident, entry.reserved, entry.debt) == (0, 0, 0)
        assert all(lease.settled for lease in self.leases)
        assert not any(run.alive for run in self.runs)
        assert all(s.adopted or s.error for s in self.suspensions), "answers were saved and forgotten"
        for move in self.moves:
            assert State(move.after) in LEGAL[State(move.before)]

    def _make_run(self, spec: ModelSpec, tell: Callable[[told.Tidings], None]) -> StagedRun:
        run = StagedRun(self, spec, tell)
        self.runs = [run, *(other for other in self.runs if other.alive or self.random.random() < 0.1)]
        return run

    def _note(self, event: Event) -> None:
        if isinstance(event, ModelMoved):
            self.moves.append(event)
            if event.after == State.UNLOADING:
                self._check_victim(event)
        elif isinstance(event, Decided):
            self.decisions.append(event)

    def _check_victim(self, move: ModelMoved) -> None:
        """Seen from inside the step: what is evicted is in nobody's use and not pinned."""
        if not move.reason.startswith("evicted"):
            return
        for model in self.supervisor.models.values():
            if (
                model.spec.name == move.model
                and model.incarnation == move.incarnation
                and model.state is State.UNLOADING
            ):
                assert not model.leases
                assert not pinned(model)


def serve(stage: Stage, spec: ModelSpec, seconds: float = 0.5) -> Lease:
    """A request from beginning to end."""
    lease = stage.ask(spec)
    assert lease is not None
    while not lease.settled:
        assert stage.clock.step()
        stage.check()
    assert stage.granted(lease)
    stage.clock.pass_time(seconds)
    stage.leave(lease)
    stage.check()
    return lease


def in_loads(stage: Stage) -> int:
    return sum(model.state in LOADS for model in stage.supervisor.models.values())
