"""What an administrator may ask of the supervisor beside what requests do."""

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import CannotFit, Conflict, Unavailable
from cortexd.events import Arithmetic, Weighed
from cortexd.lifecycle.admission import Await, Evict, Never, Start, size, weighed
from cortexd.lifecycle.deadlines import pinned
from cortexd.lifecycle.managed_model import Drain, ManagedModel
from cortexd.lifecycle.planning import foresee
from cortexd.lifecycle.states import HELD, LOADS, State
from cortexd.lifecycle.supervisor import Supervisor


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that would happen."""

    does: str  # "load", "evict", "wait", "refuse", "nothing"
    model: str
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen if this model were asked for now and nothing else came."""

    model: str
    steps: list[Step]
    needed: dict[str, int]  # bytes by device
    memory: dict[str, Arithmetic]  # as it is now
    weighed: list[Weighed]
    load_s: float  # that the load would take, measured or guessed


class Administration:
    """Each call acts at once or raises what stands against it; what takes time goes on and can be watched."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._step = supervisor.transitions
        self._view = supervisor.view

    def unload(self, spec: ModelSpec, *, force: bool) -> None:
        """A ready model goes when it is left; by `force` now, which ends its answers. Raises Conflict where others wait for it."""
        model = self._supervisor.manage(spec)
        if model.wanted and not force:
            count = len(model.waiters) + len(model.suspended)
            raise Conflict(f"{count} requests wait for {spec.name} to be loaded; `force` refuses them.")
        if force:
            error = Unavailable(f"{spec.name} was unloaded by an administrator.", retry_after=1.0)
            model.refuse_waiters(lambda: error)
            model.lose_suspended(error)
        if model.state in (State.READY, State.DRAINING) and not force:
            self._step.drain(model, Drain("unloaded by an administrator"))
        elif model.state in HELD and model.state is not State.UNLOADING:
            self._step.unload(model, "unloaded by an administrator", grace=0.0 if force else None)
        self._supervisor.settle()

    def park(self, spec: ModelSpec) -> None:
        """Give its device's memory back, but keep its worker. Raises Conflict where it is in use or cannot be parked."""
        model = self._supervisor.manage(spec)
        if model.state is State.PARKED:
            return
        if model.state is not State.READY:
            raise Conflict(f"Only a ready model can be parked, and {spec.name} is {model.state}.")
        if model.leases:
            raise Conflict(f"{spec.name} is in use by {len(model.leases)}.")
        if not self._view.may_park(model):
            raise Conflict(
                f"{spec.name} cannot be parked: its engine cannot do that, or what may be parked ([memory] parked) is used up."
            )
        self._step.let_go(model, "parked by an administrator", park=True, owner="admin")
        self._supervisor.settle()

    def pin(self, spec: ModelSpec) -> None:
        """Never evict it from now on, nor let it expire. Raises CannotFit where all that is pinned would not fit."""
        model = self._supervisor.manage(spec)
        if model.pinned:
            return
        self._check_feasible(model)
        model.pinned = True
        self._supervisor.decisions.note("pin", model, "pinned by an administrator", owner="admin")
        self._supervisor.settle()

    def unpin(self, spec: ModelSpec) -> None:
        """Raises Conflict where it is pinned by its configuration."""
        model = self._supervisor.manage(spec)
        was, model.pinned = model.pinned, False
        if pinned(model):
            raise Conflict(f"{spec.name} is pinned by its configuration (`pin`, or a negative `keep_alive`).")
        if was:
            self._supervisor.decisions.note("unpin", model, "unpinned by an administrator", owner="admin")
        self._supervisor.settle()

    def plan(self, spec: ModelSpec) -> Plan:
        """What a request for it would lead to. Changes nothing."""
        model = self._supervisor.models.get(spec.hash) or ManagedModel(spec, lambda _: None, self._view.now)
        world, wish = self._view.world(), self._view.wish(model)
        steps: list[Step] = []
        if model.state is State.READY:
            steps.append(Step(does="nothing", model=spec.name, reason="it is ready"))
        elif model.state in LOADS:
            steps.append(Step(does="wait", model=spec.name, reason="it is being loaded already"))
        else:
            names = {holding.key: holding.name for holding in world.holdings}
            for verdict in foresee(world, wish):
                match verdict:
                    case Start():
                        steps.append(Step(does="load", model=spec.name, reason="there is room for it"))
                    case Evict(keys, reason):
                        steps += [Step(does="evict", model=names[key], reason=reason) for key in sorted(keys)]
                    case Await(reason):
                        steps.append(Step(does="wait", model=spec.name, reason=reason))
                    case Never(reason):
                        steps.append(Step(does="refuse", model=spec.name, reason=reason))
        return Plan(
            model=spec.name,
            steps=steps,
            needed=wish.needed,
            memory=world.memory,
            weighed=weighed(world.holdings),
            load_s=round(self._view.progress(model).eta_s or self._supervisor.history.load_seconds(spec), 3),
        )

    def _check_feasible(self, model: ManagedModel) -> None:
        """What is pinned must fit together, loaded or not."""
        kept = [other for other in self._supervisor.models.values() if other is not model and pinned(other)]
        for device, ceiling in self._view.ceilings.items():
            needed = self._view.bytes_of(model).get(device, 0)
            beside = sum(self._view.bytes_of(other).get(device, 0) for other in kept)
            if needed + beside > ceiling:
                names = ", ".join(other.spec.name for other in kept) or "nothing"
                raise CannotFit(
                    f"{model.spec.name} needs {size(needed)} on {device}; pinned are {names} with {size(beside)}, "
                    f"and the budget is {size(ceiling)}."
                )
