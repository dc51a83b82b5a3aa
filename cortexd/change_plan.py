"""What a change of configuration would do, known before it is made."""

from collections.abc import Mapping, Sequence

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Settings
from cortexd.config.keys import keys
from cortexd.lifecycle.states import HELD, State
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.replacement import Room


class Restarted(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose worker is replaced. `beside`: the new one is loaded before the old one goes; else memory forbids."""

    model: str
    keys: list[str]  # of its spec, that differ
    loaded: bool  # it has a worker now; else the next request loads it as it is configured then
    beside: bool


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A model that would not load; it goes on answering as it last did, where it has."""

    model: str
    reason: str
    falls_back: bool = False  # it has loaded before


class BeforeAfter(msgspec.Struct, frozen=True, kw_only=True):
    before: int
    after: int


class ChangePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Names of models by what becomes of them, and what else changes. Only `restarted` ones lose a worker, once it is idle."""

    untouched: list[str] = []
    relabelled: list[str] = []  # the worker stays: what can change live has its effect at once
    restarted: list[Restarted] = []
    added: list[str] = []
    removed: list[str] = []
    refused: list[Refused] = []
    memory: dict[str, BeforeAfter] = {}  # by device: bytes that loaded models hold, and would
    daemon: list[str] = []  # keys that take effect when the daemon is started again


def change_plan(
    before: Sequence[ModelSpec], after: Sequence[ModelSpec], supervisor: Supervisor, daemon: list[str]
) -> ChangePlan:
    """`before` and `after` are the catalogue's; `daemon` the keys that wait for a start."""
    was = {spec.name: spec for spec in before}
    will_be = {spec.name: spec for spec in after}
    plan = ChangePlan(daemon=daemon, memory=_memory(was, will_be, supervisor))
    room = Room(supervisor)
    for name, spec in will_be.items():
        old = was.get(name)
        if spec.problem is not None and (old is None or old.hash != spec.hash or old.problem != spec.problem):
            falls_back = old is not None and old.problem is None
            plan.refused.append(Refused(model=name, reason=spec.problem, falls_back=falls_back))
        elif old is None:
            plan.added.append(name)
        elif old.hash != spec.hash:
            plan.restarted.append(_restarted(old, spec, supervisor, room))
        elif old != spec:
            plan.relabelled.append(name)
        else:
            plan.untouched.append(name)
    plan.removed.extend(name for name in was if name not in will_be)
    return plan


def waiting_for_a_start(running: Settings, wanted: Settings) -> list[str]:
    """Keys whose value in `wanted` is not the one the daemon was started with, and takes effect at its next start only."""
    settable = [key for key in keys(Settings) if key.settable and key.member.restart == "daemon"]
    return [key.name for key in settable if _value(running, key.path) != _value(wanted, key.path)]


def _value(settings: Settings, path: tuple[str, ...]) -> object:
    value: object = settings
    for part in path:
        value = getattr(value, part)
    return value


def _restarted(old: ModelSpec, new: ModelSpec, supervisor: Supervisor, room: Room) -> Restarted:
    differ = [
        field
        for field in ModelSpec.__struct_fields__
        if field in _PROCESS and getattr(old, field) != getattr(new, field)
    ]
    if old.limits.prompt_tokens != new.limits.prompt_tokens:
        differ.append("limits.prompt_tokens")
    loaded = supervisor.status(old).state in _LOADED
    return Restarted(model=new.name, keys=differ, loaded=loaded, beside=loaded and room.take(new))


def _memory(
    was: Mapping[str, ModelSpec], will_be: Mapping[str, ModelSpec], supervisor: Supervisor
) -> dict[str, BeforeAfter]:
    """Workers, however many names they go by, count once."""
    before: dict[str, dict[str, int]] = {}  # bytes by device, by hash
    after: dict[str, dict[str, int]] = {}
    for name, spec in was.items():
        status = supervisor.status(spec)
        if status.state not in _LOADED:
            continue
        before[spec.hash] = status.memory
        if (new := will_be.get(name)) is None:
            continue
        stays = new.hash == spec.hash or new.problem is not None
        after[spec.hash if stays else new.hash] = status.memory if stays else supervisor.history.expected(new)
    devices = dict.fromkeys(supervisor.view.ceilings)
    return {device: BeforeAfter(before=_sum(before, device), after=_sum(after, device)) for device in devices}


def _sum(held: Mapping[str, Mapping[str, int]], device: str) -> int:
    return sum(memory.get(device, 0) for memory in held.values())


_PROCESS = {"engine", "path", "weights", "strategy", "template", "threads", "max_concurrency"}
_LOADED = {state.value for state in HELD} - {State.UNLOADING.value}
