"""What time alone asks of a model. Pure: the supervisor does it."""

import math
from enum import Enum, auto

from cortexd.catalogue.spec import ModelSpec
from cortexd.lifecycle.managed_model import ManagedModel
from cortexd.lifecycle.policy import Policy
from cortexd.lifecycle.states import State

_NEARLY_DONE = 0.9  # of a load, from which on it is finished though nobody wants it any more


class Due(Enum):
    RETRY = auto()  # failed long enough ago
    FORGET = auto()  # queued, and nobody wants it any more
    ABANDON = auto()  # loading, and nobody wants it any more
    GIVE_UP = auto()  # its load stalls
    RETIRE = auto()  # ready or parked, and not in the catalogue any more
    EXPIRE = auto()  # ready and not used for its keep_alive
    LEFT = auto()  # draining, and its last lease has ended
    SUSPEND = auto()  # draining, and its generations have run on long enough
    DISCARD = auto()  # parked for too long
    KILL = auto()  # will not end


def due(model: ManagedModel, policy: Policy, now: float) -> tuple[Due | None, float]:
    """What is due, and when this has to be asked again (infinite: after the next event)."""
    ripe, again = None, math.inf
    for what, when in _deadlines(model, policy).items():
        if when > now:
            again = min(again, when)
        elif ripe is None:
            ripe = what
    return ripe, again


def keep_alive(model: ManagedModel, policy: Policy) -> float:
    """Seconds from the end of the last use; infinite: for ever."""
    if pinned(model):
        return math.inf
    if model.keep_alive is not None:
        return math.inf if model.keep_alive < 0 else model.keep_alive
    by_name = [policy.keep_alive if spec.keep_alive is None else spec.keep_alive for spec in _specs(model)]
    return math.inf if min(by_name) < 0 else max(by_name)


def pinned(model: ManagedModel) -> bool:
    """Never evicted, by order of the configuration or of an administrator."""
    return model.pinned or any(
        spec.pin or (spec.keep_alive is not None and spec.keep_alive < 0) for spec in _specs(model)
    )


def protected_until(model: ManagedModel, policy: Policy, load_seconds: float) -> float:
    """Until then a model that has just become ready is not evicted: the longer the dearer its load was, lest two models thrash."""
    wished = policy.residency_per_load * load_seconds
    return model.ready_since + min(wished, max(policy.max_residency, load_seconds))


def _deadlines(model: ManagedModel, policy: Policy) -> dict[Due, float]:
    never, at_once = math.inf, -math.inf
    unwanted = never if model.wanted or model.left_at is None else model.left_at + policy.linger
    match model.state:
        case State.FAILED:
            assert model.failure is not None
            return {Due.RETRY: model.failure.until}
        case State.QUEUED:
            return {Due.FORGET: never if model.wanted else at_once}
        case State.LOADING | State.WARMING:
            nearly_done = model.state is State.WARMING or model.fraction >= _NEARLY_DONE
            return {
                Due.GIVE_UP: model.progressed_at + policy.load_stall,
                Due.ABANDON: never if nearly_done else unwanted,
            }
        case State.READY:
            if model.leases:
                return {}
            if not model.names:
                return {Due.RETIRE: at_once}
            return {Due.EXPIRE: model.last_used + keep_alive(model, policy)}
        case State.DRAINING:
            if not model.leases:  # also once they are saved
                return {Due.LEFT: model.since + model.drain.linger if model.drain is not None else at_once}
            if model.suspending or model.facts is None or not model.facts.suspends or not model.names:
                return {}  # what was saved by a model that has changed since, no other could go on with
            asked = min((lease.asked for lease in model.waiters), default=never)
            at = model.drain.suspend_at if model.drain is not None else None
            return {Due.SUSPEND: min(never if at is None else at, asked + policy.max_wait)}
        case State.PARKED:
            if model.wanted or not model.settled:
                return {}
            if not model.names:
                return {Due.RETIRE: at_once}
            kept = keep_alive(model, policy) + policy.parked_keep_alive
            return {Due.DISCARD: model.last_used + kept if policy.parked_keep_alive >= 0 else never}
        case State.UNLOADING:
            return {Due.KILL: model.kill_at}
        case State.COLD:
            return {}


def _specs(model: ManagedModel) -> list[ModelSpec]:
    """One for each name it goes by."""
    return list(model.names.values()) or [model.spec]
