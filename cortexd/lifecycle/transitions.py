"""How a model goes from state to state, and what each step takes with it. When and why is the supervisor's business."""

from collections.abc import Callable

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import EngineFacts, Suspension
from cortexd.errors import CortexdError, LoadFailed
from cortexd.lifecycle import tidings as told
from cortexd.lifecycle.decisions import Decisions
from cortexd.lifecycle.history import History
from cortexd.lifecycle.managed_model import Drain, ManagedModel, Run
from cortexd.lifecycle.policy import Policy
from cortexd.lifecycle.states import LOADS, State
from cortexd.lifecycle.view import MAY_STAY, View, devices_of

_CRASH_LOOP = 10.0  # seconds: an engine that dies sooner, and before it has served anybody, is not tried again at once
_OVERGROWN = 1.5  # times what was expected: a worker that grows beyond it, and beyond the budget, is ended

Hear = Callable[[ManagedModel, int, told.Tidings], None]
MakeRun = Callable[[ModelSpec, told.Tell], Run]


class Transitions:
    """Each method is one step, complete when it returns; what runs in the background is told of later, through `hear`."""

    def __init__(
        self, make_run: MakeRun, hear: Hear, policy: Policy, history: History, view: View, decisions: Decisions
    ) -> None:
        self._make_run = make_run
        self._hear = hear
        self._policy = policy
        self._history = history
        self._view = view
        self._decided = decisions.note

    # Coming

    def enqueue(self, model: ManagedModel, owner: str) -> None:
        model.wanted_since = self._view.now()
        model.evicted = []
        model.move_to(State.QUEUED, f"wanted by {owner}")

    def begin_load(self, model: ManagedModel) -> None:
        """Queued or parked → loading."""
        owner = next((lease.owner for lease in model.waiters), "suspended generations")
        resuming = model.state is State.PARKED
        model.begin_load(self._history.expected(model.spec), "there is room for it")
        self._decided("load", model, f"{'brought back' if resuming else 'loaded'} for {owner}", owner=owner)
        if resuming:
            assert model.run is not None
            model.run.resume()
            return
        incarnation = model.incarnation
        model.run = self._make_run(model.spec_to_load(), lambda news: self._hear(model, incarnation, news))
        model.run.start()

    def loaded(self, model: ManagedModel, facts: EngineFacts) -> None:
        model.facts, model.progressed_at = facts, self._view.now()
        for notice in facts.notices:
            self._decided("degrade", model, notice)
        model.move_to(State.WARMING, "its weights are there")

    def probed(self, model: ManagedModel) -> None:
        spent = self._view.now() - model.load_began
        model.resident = model.reserved
        self._history.note(model.spec, "resume_seconds" if model.resumed else "load_seconds", "", spent)
        model.become_ready()

    def measured(self, model: ManagedModel, seen: told.Measured) -> None:
        """What it really holds takes the place of what was expected."""
        if model.state not in (State.READY, State.DRAINING):
            return
        for device, count in seen.resident.items():
            model.peak[device] = max(count, model.peak.get(device, 0))
        model.resident, model.mapped = {**model.resident, **seen.resident}, seen.mapped
        for device, memory in self._view.memory().items():
            held, expected = seen.resident.get(device, 0), model.reserved.get(device, 0)
            if memory.free < 0 and expected > 0 and held > _OVERGROWN * expected:
                assert model.run is not None
                model.run.kill(f"it had grown to {held} bytes on {device}, where {expected} were expected", True)

    # Failing

    def load_broke(self, model: ManagedModel, error: CortexdError) -> None:
        if model.state not in LOADS:
            self.ended(model, error.message.removesuffix("."))
            return
        if not isinstance(error, LoadFailed):
            error = LoadFailed(f"{model.spec.name} could not be loaded: {error.message}")
        self._fail(model, error, at_once=False)

    def ended(self, model: ManagedModel, reason: str, out_of_memory: bool = False) -> None:
        """An engine has ended by itself: the next request starts it again, at once unless it died young.

        One that ran out of memory is tried again with half the batch, as long as there is something to halve.
        """
        name, model.crashed = model.spec.name, model.incarnation
        squeeze = out_of_memory and model.spec_to_load().max_concurrency > 1
        if squeeze:
            model.squeezed += 1
            batch = model.spec_to_load().max_concurrency
            reason = f"{reason}; it is tried again with at most {batch} sequences at a time"
        if model.state in LOADS:
            self._fail(model, LoadFailed(f"The process that was loading {name} ended: {reason}."), at_once=squeeze)
        elif model.state in (State.READY, State.DRAINING):
            self._decided("crash", model, f"the process of {name} ended: {reason}")
            if model.served or self._view.now() - model.ready_since >= _CRASH_LOOP:
                model.failures = 0
            at_once = squeeze or model.failures == 0
            self._fail(model, LoadFailed(f"The process of {name} ended: {reason}."), at_once=at_once)
        elif model.state is State.PARKED:
            self.unload(model, f"its process ended: {reason}")

    def give_up(self, model: ManagedModel) -> None:
        """Its load stalls: whoever waits is told now, and what is left of it is ended."""
        assert model.run is not None
        stall = f"made no progress for {self._policy.load_stall:g} s and was given up"
        model.progressed_at = self._view.now()  # should it not even end, this comes again
        model.refuse_waiters(lambda: LoadFailed(f"Loading {model.spec.name} {stall}.", retry_after=1.0))
        model.lose_suspended(LoadFailed(f"Loading {model.spec.name} {stall}."))
        model.run.kill(f"it {stall}")

    def _fail(self, model: ManagedModel, error: CortexdError, *, at_once: bool) -> None:
        model.fail(error, at_once_again=at_once)
        self._decided("fail", model, error.message.removesuffix("."))
        if at_once and model.wanted:  # for the next incarnation, which may be had now
            model.move_to(State.COLD, "may be tried again")
            self.enqueue(model, next((lease.owner for lease in model.waiters), "suspended answers"))
        else:
            model.lose_suspended(error)
            model.refuse_waiters(model.refusal)

    # Going

    def drain(self, model: ManagedModel, drain: Drain) -> None:
        """Ready → draining; or, if it drains already, for a stronger reason."""
        model.drain = drain
        if model.state is State.READY:
            model.move_to(State.DRAINING, drain.reason)

    def reopen(self, model: ManagedModel) -> None:
        """Draining → ready, with all who have asked meanwhile: what it should have made room for needs it no more."""
        assert model.drain is not None
        self._decided("rescue", model, f"it stays after all: {model.drain.reason}, which nobody waits for any more")
        model.drain = None
        model.move_to(State.READY, "rescued")
        waiters, model.waiters = model.waiters, {}
        for lease in waiters:
            model.lease_now(lease)

    def suspend(self, model: ManagedModel) -> None:
        assert model.run is not None
        model.suspending = True
        model.run.suspend()

    def suspended(self, model: ManagedModel, suspension: Suspension) -> None:
        model.suspension = suspension
        model.suspended |= model.leases
        model.leases.clear()
        count = len(model.suspended)
        self._decided(
            "suspend", model, f"{count} running answer{'s are' if count > 1 else ' is'} saved and will go on later"
        )

    def let_go(self, model: ManagedModel, reason: str, *, park: bool, owner: str | None = None) -> None:
        """A ready model in nobody's use leaves its device, to be parked where that is wished and possible."""
        assert model.run is not None
        if park and self._view.may_park(model):
            model.settled = False
            model.move_to(State.PARKED, reason)
            self._decided("park", model, reason, owner=owner)
            model.run.park()
            return
        self.unload(model, reason)

    def parked(self, model: ManagedModel, resident: dict[str, int]) -> None:
        """Its memory has come back; where it has not, the whole worker goes."""
        before, model.resident, model.settled = model.resident, resident, True
        for device in devices_of(before):
            if (kept := resident.get(device, 0)) > MAY_STAY * before[device]:
                self.unload(model, f"it was parked but kept {kept} bytes on {device}", grace=0.0)
                return

    def unload(self, model: ManagedModel, reason: str, grace: float | None = None) -> None:
        """Its worker is told to end, and its memory is debt until it has."""
        assert model.run is not None
        for device, count in model.peak.items():  # of this life, once
            self._history.note(model.spec, "peak_bytes", device, count)
        model.peak = {}
        if model.state is State.READY:
            model.move_to(State.DRAINING, reason)
        if model.state is State.DRAINING and self._view.now() - model.ready_since >= _CRASH_LOOP:
            model.failures = model.squeezed = 0
        grace = self._policy.unload_grace if grace is None else grace
        model.resident, model.drain, model.suspending = model.holds(), None, False
        model.settled = True
        model.kill_at = self._view.now() + grace + self._policy.unload_deadline
        model.move_to(State.UNLOADING, reason)
        self._decided("unload", model, reason)
        model.run.stop(grace)

    def kill_again(self, model: ManagedModel) -> None:
        assert model.run is not None
        model.kill_at = self._view.now() + self._policy.unload_deadline
        self._decided(
            "unload", model, f"its worker has not ended in {self._policy.unload_deadline:g} s and is killed again"
        )
        model.run.stop(0.0)

    def stopped(self, model: ManagedModel) -> None:
        """Nothing of it is left: queued again if somebody has asked meanwhile."""
        model.lose_engine()
        if model.wanted:
            model.wanted_since = min((lease.asked for lease in model.waiters), default=self._view.now())
            model.evicted = []
            model.move_to(State.QUEUED, "wanted again")
        else:
            model.move_to(State.COLD, "unloaded")
