"""What is to be done next for the models that are waited for. Pure: the supervisor acts on it, and `plan` shows it."""

from collections.abc import Mapping, Sequence

import msgspec

from cortexd.events import Arithmetic
from cortexd.lifecycle.admission import Await, Evict, Holding, Never, Start, Verdict, Wish, admit
from cortexd.lifecycle.policy import Priority

_PREDICTED = "it is loaded into free memory only, while nothing else is being loaded"


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """A wish and its place in the queue."""

    wish: Wish
    priority: Priority
    since: float


class World(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision depends on."""

    memory: dict[str, Arithmetic]  # by device
    coming: dict[str, int]  # bytes by device of models that are on their way out
    holdings: list[Holding]
    queue: list[Queued]
    loads: int  # under way
    parallel_loads: int


def in_order(queue: Sequence[Queued], aging: float) -> list[Queued]:
    """First come first served, where a lower priority counts as having come `aging` seconds later for each class.

    So nothing starves: whatever comes more than that much later comes after it.
    """
    return sorted(queue, key=lambda queued: (queued.since + aging * queued.priority, queued.wish.name))


def decide(world: World) -> list[tuple[Wish, Verdict]]:
    """A verdict on each wish in the order of `world.queue`, up to and including the first that changes the world."""
    verdicts: list[tuple[Wish, Verdict]] = []
    claimed: dict[str, int] = {}
    for queued in world.queue:
        verdict = _verdict(world, queued, claimed)
        verdicts.append((queued.wish, verdict))
        if isinstance(verdict, (Start, Evict)):
            break
        if isinstance(verdict, Await) and verdict.claims:
            _add(claimed, queued.wish.needed)
    return verdicts


def foresee(world: World, wish: Wish) -> list[Verdict]:
    """The steps that would lead to this wish's load if nothing else happened: what goes, then whether it starts."""
    steps: list[Verdict] = []
    memory, holdings = dict(world.memory), list(world.holdings)
    for _ in range(len(holdings) + 1):
        verdict = admit(wish, memory, world.coming, {}, holdings)
        steps.append(verdict)
        if not isinstance(verdict, Evict):
            break
        for gone in (h for h in holdings if h.key in verdict.keys):
            parked = gone.parking_frees if verdict.park else None
            frees = gone.frees if parked is None else parked
            memory = {d: _without(memory[d], frees.get(d, 0)) for d in memory}
        holdings = [h for h in holdings if h.key not in verdict.keys]
    return steps


def _verdict(world: World, queued: Queued, claimed: Mapping[str, int]) -> Verdict:
    verdict = admit(queued.wish, world.memory, world.coming, claimed, world.holdings)
    if isinstance(verdict, (Never, Await)):
        return verdict
    if queued.priority is Priority.PREDICTED and (world.loads or len(world.queue) > 1):
        return Await(_PREDICTED)
    if world.loads >= world.parallel_loads and any(queued.wish.needed.values()):  # what needs nothing disturbs no load
        return Await(f"{world.loads} other{'s are' if world.loads > 1 else ' is'} being loaded")
    return verdict


def _without(memory: Arithmetic, freed: int) -> Arithmetic:
    return msgspec.structs.replace(memory, resident=memory.resident - freed)


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for device, count in more.items():
        total[device] = total.get(device, 0) + count
