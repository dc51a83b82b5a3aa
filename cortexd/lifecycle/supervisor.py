"""Who loads and unloads. Whoever wants a model asks for a lease, and never looks first."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import LoadFailed, QueueFull, ShuttingDown, Unavailable
from cortexd.events import Event
from cortexd.lifecycle import tidings as told
from cortexd.lifecycle.clock import Clock, Timer
from cortexd.lifecycle.deadlines import Due, due
from cortexd.lifecycle.decisions import Decisions
from cortexd.lifecycle.evictions import Evictions
from cortexd.lifecycle.history import History
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.load_queue import LoadQueue
from cortexd.lifecycle.managed_model import Drain, ManagedModel
from cortexd.lifecycle.policy import Policy, Priority
from cortexd.lifecycle.roster import Roster
from cortexd.lifecycle.states import HELD, LOADS, State
from cortexd.lifecycle.transitions import MakeRun, Transitions
from cortexd.lifecycle.view import ModelStatus, View

_MOST_ROUNDS = 10_000  # of settling; more would be a circle
_TOLD_SOON = 5.0  # seconds within which an engine that was found dead has told of its end


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
        self._queue = LoadQueue(self.models, self.view, self.transitions, self._evictions, self.decisions)
        self._roster = Roster(self.models, self.transitions, self.decisions, publish, clock.time)
        self._clock = clock
        self._now = clock.time
        self._publish = publish
        self._on_bug = on_bug
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
        model = self._roster.manage(spec)
        lease = Lease(owner, self._now(), lambda: self.view.progress(model), priority, keep_alive)
        try:
            self._seat(model, lease)
            lease.held_by(lambda released: self._released(model, released))
        finally:
            self.settle()
        return lease

    def manage(self, spec: ModelSpec) -> ManagedModel:
        """The model of this spec; another one that went by this name is replaced, and goes when it is left."""
        return self._roster.manage(spec)

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
        return self._roster.in_memory(name)

    def status(self, spec: ModelSpec) -> ModelStatus:
        """What is to be seen of this model; one that nobody has asked for yet is cold."""
        model = self.models.get(spec.hash) or ManagedModel(spec, self._publish, self._now)
        return self.view.status(model, spec.name)

    def reconcile(self, specs: Sequence[ModelSpec]) -> None:
        """What these specs do not name any more goes when it is left; what they have changed is loaded anew when next asked for."""
        self._roster.reconcile(specs)
        self.settle()

    def adopt(self, policy: Policy) -> None:
        """From now on these are the rules; what has begun under the old ones keeps only the deadlines it was given."""
        self.policy.adopt(policy)
        self.settle()

    def set_ceilings(self, ceilings: Mapping[str, int]) -> None:
        """Bytes by device; a device that is not named keeps its own. Where more is held, idle models go until it is not."""
        self.view.ceilings.update(ceilings)
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
            self._queue.check(model, lease.owner)
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
        """Make what room there must be and act on the verdicts; the next moment at which time alone may change one."""
        if self._closing:
            return math.inf
        self._unsettled = self._queue.reopen_spared() or self._unsettled
        self._unsettled = self._evictions.relieve_all() or self._unsettled
        if not any(self.view.waits_for_load(model) for model in self.models.values()):
            return math.inf
        self._unsettled = self._queue.serve() or self._unsettled
        return self.view.next_change()

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
