"""Who loads and unloads. Whoever wants a model asks for a lease, and never looks first."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import CannotFit, LoadFailed, QueueFull, ShuttingDown, Unavailable
from cortexd.events import Event
from cortexd.lifecycle import tidings as told
from cortexd.lifecycle.admission import Await, Evict, Never, Start, Verdict, Wish, weighed
from cortexd.lifecycle.clock import Clock, Timer
from cortexd.lifecycle.deadlines import Due, due
from cortexd.lifecycle.decisions import Decisions
from cortexd.lifecycle.evictions import Evictions
from cortexd.lifecycle.history import History
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.managed_model import Drain, ManagedModel
from cortexd.lifecycle.planning import decide
from cortexd.lifecycle.policy import Policy, Priority
from cortexd.lifecycle.states import HELD, LOADS, State
from cortexd.lifecycle.transitions import MakeRun, Transitions
from cortexd.lifecycle.view import ModelStatus, View

_MOST_ROUNDS = 10_000  # of settling; more would be a circle
_TOLD_SOON = 5.0  # seconds within which an engine that was found dead has told of its end
_PATIENCE = 10.0  # seconds after which it may be worth asking again for memory that other programs hold


class Supervisor:
    """One owner of every model's state, without a task, a lock or an await of its own.

    Everything comes in by a plain call: requests, releases, what incarnations tell, the administrator, the timer. Each call ends by
    settling: what is due is done, then what the queue asks for, until there is nothing to do; then one timer is set for the next
    moment at which something will be.
    """

    def __init__(
        self,
        make_run: MakeRun,
        policy: Policy,
        history: History,
        ceilings: dict[str, int],
        clock: Clock,
        publish: Callable[[Event], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self.policy = policy
        self.history = history
        self.models: dict[str, ManagedModel] = {}  # by key, the hash of the spec
        self.view = View(self.models, policy, history, ceilings, clock.time)
        self.decisions = Decisions(self.view.memory)
        self.transitions = Transitions(make_run, self._hear, policy, history, self.view, self.decisions)
        self._evictions = Evictions(self.models, policy, self.view, self.transitions, self.decisions)
        self._clock = clock
        self._now = clock.time
        self._publish = publish
        self._on_bug = on_bug
        self._names: dict[str, ManagedModel] = {}
        self._timer: Timer | None = None
        self._settling = self._unsettled = False
        self._closing = False
        self._quiet: asyncio.Event | None = None
        self.on_asked: Callable[[str], None] = lambda _: None  # the name of each model that a client asks for

    # Requests

    def lease(
        self,
        spec: ModelSpec,
        *,
        owner: str,
        priority: Priority = Priority.REQUEST,
        keep_alive: float | None = None,
    ) -> Lease:
        """A lease on this model, granted now or when its load is done; raises what is known at once to stand against it.

        Ready: granted. Being loaded: joins. On its way out: waits for its next incarnation. Failed a moment ago: refused with the
        same sentence. Else a load is queued.
        """
        if self._closing:
            raise ShuttingDown
        if priority is Priority.REQUEST:
            self.on_asked(spec.name)
        model = self.manage(spec)
        lease = Lease(owner, self._now(), lambda: self.view.progress(model), priority, keep_alive)
        try:
            self._seat(model, lease)
            lease.held_by(lambda released: self._released(model, released))
        finally:
            self.settle()
        return lease

    def manage(self, spec: ModelSpec) -> ManagedModel:
        """The model of this spec; another one that went by this name is replaced, and goes when it is left."""
        model = self.models.get(spec.hash)
        if model is None:
            publish = self._publish if spec.source != "synthetic" else _nobody
            model = self.models[spec.hash] = ManagedModel(spec, publish, self._now)
        before = self._names.get(spec.name)
        if before is not None and before is not model:
            model.pinned |= before.pinned
            self._retire(before, spec.name, "its configuration has changed")
        if not model.names and model.state is State.DRAINING and not model.suspending:
            self.transitions.reopen(model)
        self._names[spec.name] = model
        model.names[spec.name] = spec
        if model.spec.name == spec.name or model.spec.name not in model.names:
            model.spec = spec  # what can change live has its effect from now on
        elif before is not model:
            self.decisions.note("share", model, f"{spec.name} is the same as {model.spec.name} and shares its worker")
        return model

    def has_died(self, spec: ModelSpec, incarnation: int) -> bool:
        """Whether this incarnation, which somebody has found dead, has ended by itself, and not by order.

        That somebody may know of it before we do: from now on nobody is given this engine any more.
        """
        model = self.models.get(spec.hash)
        if model is None or model.incarnation != incarnation:
            return False
        if model.state is State.READY:
            self.transitions.drain(model, Drain("its engine has ended", linger=_TOLD_SOON))
        return model.state is State.DRAINING or model.crashed == incarnation

    def in_memory(self, name: str) -> ModelSpec | None:
        """What goes by this name and has a worker, though its file may be damaged by now."""
        model = self._names.get(name)
        return model.names[name] if model is not None and model.state in HELD else None

    def status(self, spec: ModelSpec) -> ModelStatus:
        """What is to be seen of this model; one that nobody has asked for yet is cold."""
        model = self.models.get(spec.hash) or ManagedModel(spec, self._publish, self._now)
        return self.view.status(model, spec.name)

    def reconcile(self, specs: Sequence[ModelSpec]) -> None:
        """What these specs do not name any more goes when it is left; what they have changed is loaded anew when next asked for."""
        current = {spec.name: spec.hash for spec in specs}
        damaged = {spec.name for spec in specs if spec.problem is not None}
        for name, model in tuple(self._names.items()):
            unreadable = name in damaged and model.state in HELD  # half copied, perhaps: better the old one than none
            if current.get(name) != model.key and not unreadable and model.spec.source != "synthetic":
                self._retire(model, name, "its configuration has changed" if name in current else "it was removed")
        self.settle()

    def _seat(self, model: ManagedModel, lease: Lease) -> None:
        if model.state is State.READY:
            model.lease_now(lease)
            return
        if len(model.waiters) >= self.policy.queue_limit:
            raise QueueFull(retry_after=max(1.0, math.ceil(self.history.load_seconds(model.spec))))
        if model.state is State.FAILED:
            assert model.failure is not None
            if self._now() < model.failure.until:
                raise model.refusal()
            model.move_to(State.COLD, "may be tried again")
        if model.state is State.COLD:
            if (never := self.view.never_fits(model)) is not None:
                self._refused(model, never, self.view.wish(model), lease.owner)
                raise _refusal(never)
            self.transitions.enqueue(model, lease.owner)
        elif model.state is State.PARKED and not model.wanted:
            model.wanted_since = self._now()
            model.evicted = []
        if lease.priority <= Priority.ADMIN < min((w.priority for w in model.waiters), default=Priority.REQUEST):
            model.wanted_since = self._now()  # how long a mere wish has waited gives nobody a right
        model.waiters[lease] = None
        model.left_at = None

    def _released(self, model: ManagedModel, lease: Lease) -> None:
        if lease in model.leases or lease in model.suspended:
            model.leases.discard(lease)
            model.suspended.discard(lease)
            model.last_used = self._now()
            model.keep_alive = lease.keep_alive
            if lease.priority is Priority.REQUEST:
                model.served = True
                self.view.note_use(model)
            if not model.suspended:
                # All that was saved was for those who have left.
                model.lose_suspended(Unavailable(f"{lease.owner} has left."))
        model.waiters.pop(lease, None)
        if not model.wanted:
            model.left_at = self._now()
        self.settle()

    def _retire(self, model: ManagedModel, name: str, reason: str) -> None:
        """It does not go by this name any more; without any, it goes when it is left."""
        del model.names[name], self._names[name]
        if model.names:
            if model.spec.name == name:  # whoever shares it gives it its name
                model.spec = next(iter(model.names.values()))
        elif model.state in (State.READY, State.DRAINING):
            self.transitions.drain(model, Drain(reason))
        elif model.state not in LOADS:  # what lies at its path now is something else
            error = Unavailable(f"{name} has changed; ask again.", retry_after=1.0)
            model.lose_suspended(error)
            model.refuse_waiters(lambda: error)

    # What incarnations tell

    def _hear(self, model: ManagedModel, incarnation: int, news: told.Tidings) -> None:
        """What a stale incarnation tells changes nothing, nor does what comes too late."""
        if incarnation != model.incarnation or model.run is None:
            if isinstance(news, told.Suspended):  # but who waits must be told
                news.suspension.fail(Unavailable(f"{model.spec.name} was unloaded."))
            return
        step = self.transitions
        match news:
            case told.Progressed(_, fraction):
                if model.state is State.LOADING:
                    model.note_progress(fraction)
                return
            case told.Loaded(facts) if model.state is State.LOADING:
                step.loaded(model, facts)
            case told.Probed() if model.state is State.WARMING:
                step.probed(model)
            case told.LoadBroke(error):
                step.load_broke(model, error)
            case told.Ended(reason, out_of_memory):
                step.ended(model, reason, out_of_memory)
            case told.Parked(resident) if model.state is State.PARKED:
                step.parked(model, resident)
            case told.Suspended(suspension) if model.state is State.DRAINING and not self._closing:
                step.suspended(model, suspension)
            case told.Suspended(suspension):  # it was unloaded by force meanwhile
                model.leases.clear()
                suspension.fail(ShuttingDown() if self._closing else Unavailable(f"{model.spec.name} was unloaded."))
            case told.Stopped() if model.state is State.UNLOADING:
                step.stopped(model)
            case told.Measured():
                step.measured(model, news)
            case told.Bug(error):
                step.load_broke(model, LoadFailed(f"cortexd failed while it handled {model.spec.name}."))
                self._on_bug(error)
            case _:
                pass
        self.settle()

    @property
    def closing(self) -> bool:
        return self._closing

    # Settling

    def settle(self) -> None:
        """Do all that is to be done now. What a step calls in from within is made up for at the end of the round."""
        self._unsettled = True
        if self._settling:
            return
        self._settling = True
        again = math.inf
        try:
            for _ in range(_MOST_ROUNDS):
                self._unsettled = False
                again = min((self._attend(model) for model in tuple(self.models.values())), default=math.inf)
                again = min(again, self._serve_queue())
                if not self._unsettled:
                    break
            else:
                raise RuntimeError("\n".join(["the supervisor goes round in circles", *self.view.wait_graph()]))
        except Exception as error:  # from here on nothing would ever be due again
            self._on_bug(error)
            raise
        finally:
            self._settling = False
        self._set_timer(again)
        if self._quiet is not None and self.view.quiet():
            self._quiet.set()

    def _attend(self, model: ManagedModel) -> float:
        """Do what is due for one model; when this has to be asked again."""
        if model.state is State.COLD:
            if not model.names:
                self.models.pop(model.key, None)
            return math.inf
        what, again = due(model, self.policy, self._now())
        if what is not None:
            self._unsettled = True
            self._do(what, model)
        return again

    def _do(self, what: Due, model: ManagedModel) -> None:
        step = self.transitions
        match what:
            case Due.RETRY:
                model.move_to(State.COLD, "may be tried again")
            case Due.FORGET:
                model.move_to(State.COLD, "nobody wants it any more")
            case Due.ABANDON:
                self.decisions.note("abandon", model, f"nobody had wanted it for {self.policy.linger:g} s")
                step.unload(model, "nobody wants it any more", grace=0.0)
            case Due.GIVE_UP:
                step.give_up(model)
            case Due.RETIRE:
                step.unload(model, "it is not in the catalogue any more")
            case Due.EXPIRE:
                step.let_go(model, "it was not used for its keep_alive", park=True)
            case Due.LEFT:
                step.unload(model, model.drain.reason if model.drain else "its last lease has ended")
            case Due.SUSPEND:
                step.suspend(model)
            case Due.DISCARD:
                step.unload(model, "it was parked and not asked for")
            case Due.KILL:
                step.kill_again(model)

    def _serve_queue(self) -> float:
        """Act on the verdicts up to the first that changes something; the next moment at which time alone may change one."""
        if self._closing:
            return math.inf
        for model in tuple(self.models.values()):
            if (key := model.draining_for) and not (key in self.models and self.view.waits_for_load(self.models[key])):
                self._unsettled = True
                self.transitions.reopen(model)
        self._unsettled |= self._evictions.relieve_all()
        if not any(self.view.waits_for_load(model) for model in self.models.values()):
            return math.inf
        for wish, verdict in decide(self.view.world()):
            self._obey(self.models[wish.key], wish, verdict)
        return self.view.next_change()

    def _obey(self, model: ManagedModel, wish: Wish, verdict: Verdict) -> None:
        match verdict:
            case Start():
                self._unsettled = True
                self.transitions.begin_load(model)
            case Evict():
                self._unsettled = True
                self._evictions.make_room(model, wish, verdict)
            case Never(_, _):
                self._unsettled = True
                self._refused(model, verdict, wish, None)
                model.refuse_waiters(lambda: _refusal(verdict))
                model.lose_suspended(_refusal(verdict))
            case Await(reason):
                if model.told_to_wait != model.wanted_since:
                    model.told_to_wait = model.wanted_since
                    waits, shown = f"{wish.name} waits: {reason}", weighed(self.view.holdings())
                    self.decisions.note("queue", model, waits, weighed=shown, needed=wish.needed)

    def _refused(self, model: ManagedModel, never: Never, wish: Wish, owner: str | None) -> None:
        shown = weighed(self.view.holdings())
        self.decisions.note("refuse", model, never.reason, owner=owner, weighed=shown, needed=wish.needed)

    def note_foreign(self, device: str, count: int) -> None:
        """So many bytes of the ceiling are used by other programs."""
        self.view.foreign[device] = count
        self.settle()

    def note_pressure(self, device: str, excess: int) -> None:
        """The machine is short of so many bytes on this device."""
        self._evictions.relieve(device, excess, f"{device} is short of memory")
        self.settle()

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_at(when, self.settle) if when < math.inf else None

    # The end

    async def close(self, deadline: float) -> None:
        """Refuse what waits, let leases end until `deadline` seconds have passed, then end every engine."""
        self._quiet = asyncio.Event()
        self.begin_close()
        try:
            async with asyncio.timeout(deadline):
                await self._quiet.wait()
        except TimeoutError:
            self.end_all()
            with contextlib.suppress(TimeoutError):  # what even the kernel cannot end ends with the machine
                async with asyncio.timeout(2 * self.policy.unload_deadline):
                    await self._quiet.wait()

    def begin_close(self) -> None:
        """From now on nothing is leased, and everything goes as soon as it is left."""
        self._closing = True
        for model in tuple(self.models.values()):
            model.refuse_waiters(ShuttingDown)
            model.lose_suspended(ShuttingDown())
            if model.state in (State.READY, State.DRAINING):
                self.transitions.drain(model, Drain("shutting down"))
            elif model.state in LOADS or model.state is State.PARKED:
                self.transitions.unload(model, "shutting down", grace=0.0)
        self.settle()

    def end_all(self) -> None:
        """End every engine by force."""
        for model in tuple(self.models.values()):
            model.refuse_waiters(ShuttingDown)
            model.lose_suspended(ShuttingDown())
            if model.state is State.UNLOADING and model.run is not None:
                model.run.stop(0.0)
            elif model.state in HELD:
                self.transitions.unload(model, "shutting down, and its time is over", grace=0.0)
        self.settle()


def _nobody(event: Event) -> None:
    """Who is told of the synthetic model."""


def _refusal(never: Never) -> Unavailable | CannotFit:
    if never.passing:
        return Unavailable(f"{never.reason}.", retry_after=_PATIENCE)
    return CannotFit(f"{never.reason}.")
