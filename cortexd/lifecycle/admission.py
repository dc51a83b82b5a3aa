"""Whether a model may be loaded now, and if not, what has to happen first. Pure: no clock, no log, nothing awaited."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cortexd.events import Arithmetic, Weighed
from cortexd.lifecycle.eviction import Candidate, choose_victims
from cortexd.sizes import size


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A model that somebody waits for."""

    key: str
    name: str
    needed: dict[str, int]  # bytes by device, beyond what it holds already
    overdue: bool = False  # it has waited so long that models in use must make room
    may_evict: bool = True


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A model that holds memory."""

    key: str
    name: str
    frees: dict[str, int]  # bytes by device that its going gives back
    cost: float  # expected seconds of loading per second of absence
    parking_frees: dict[str, int] | None = None  # and its being parked; None: it cannot be
    parking_cost: float = 0.0
    why_not: str = ""  # it may not go now because …; empty: it may
    closable: bool = False  # though it may not go now, it can be closed to new requests, and goes when it is left
    pinned: bool = False


class Start(msgspec.Struct, frozen=True):
    """There is room."""


class Await(msgspec.Struct, frozen=True):
    """Nothing to be done but wait. `claims`: what comes back is for this wish, not for those behind it."""

    reason: str
    claims: bool = False


class Evict(msgspec.Struct, frozen=True):
    """These go, and this wish waits for their memory; those that are in use are closed first."""

    keys: frozenset[str]
    reason: str
    park: bool  # those that can be parked are; what then stays of them has been counted


class Never(msgspec.Struct, frozen=True):
    """Waiting does not help."""

    reason: str
    passing: bool = False  # it is other programs that are in the way, and they may go


Verdict = Start | Await | Evict | Never


def admit(
    wish: Wish,
    memory: Mapping[str, Arithmetic],
    coming: Mapping[str, int],
    claimed: Mapping[str, int],
    holdings: Sequence[Holding],
) -> Verdict:
    """What is to be done for this wish.

    `coming` are the bytes by device that unloads under way will give back, `claimed` those that wishes before this one wait for.
    The absolute ceiling is compared first, so that nothing is evicted for what can never fit.
    """
    if (never := never_fits(wish, memory, holdings)) is not None:
        return never
    devices = [device for device, needed in wish.needed.items() if needed > 0 and device in memory]
    later = {d: memory[d].free + coming.get(d, 0) - claimed.get(d, 0) for d in devices}
    if all(wish.needed[d] <= min(memory[d].free, later[d]) for d in devices):
        return Start()
    shortage = {d: wish.needed[d] - later[d] for d in devices if wish.needed[d] > later[d]}
    if not shortage:
        return Await("memory is on its way back", claims=True)
    if not wish.may_evict:
        return Await("it is loaded into free memory only")
    idle = [h for h in holdings if not h.why_not]
    if (chosen := choose(idle, shortage)) is not None:
        return Evict(chosen.keys, f"{wish.name} needs {_sizes(shortage)} more", chosen.park)
    if not wish.overdue:
        return Await(_busy(holdings, shortage))
    closable = [Candidate(h.key, h.frees, h.cost) for h in holdings if h.closable or not h.why_not]
    if (victims := choose_victims(closable, shortage)) is not None:
        keys = frozenset(v.name for v in victims)
        return Evict(keys, f"{wish.name} has waited too long for {_sizes(shortage)}", park=False)
    return never_fits(wish, memory, holdings, others=True) or Await(_busy(holdings, shortage), claims=True)


class Chosen(msgspec.Struct, frozen=True):
    keys: frozenset[str]
    park: bool


def choose(idle: Sequence[Holding], shortage: Mapping[str, int]) -> Chosen | None:
    """The idle models that cost least to do without: parked if that frees enough, else gone; None where they do not suffice."""
    parked = [
        Candidate(h.key, h.frees, h.cost)
        if h.parking_frees is None
        else Candidate(h.key, h.parking_frees, h.parking_cost)
        for h in idle
    ]
    if (victims := choose_victims(parked, shortage)) is not None:
        return Chosen(frozenset(v.name for v in victims), park=True)
    gone = [Candidate(h.key, h.frees, h.cost) for h in idle]
    if (victims := choose_victims(gone, shortage)) is not None:
        return Chosen(frozenset(v.name for v in victims), park=False)
    return None


def never_fits(
    wish: Wish, memory: Mapping[str, Arithmetic], holdings: Iterable[Holding], *, others: bool = False
) -> Never | None:
    """Why this much cannot be had, with the arithmetic; None where it can. `others`: what other programs use counts too."""
    pinned = [h for h in holdings if h.pinned and h.key != wish.key]
    for device, needed in wish.needed.items():
        if device not in memory:
            continue
        at, ceiling = memory[device], memory[device].ceiling
        kept = sum(h.frees.get(device, 0) for h in pinned)
        if needed > ceiling:
            return Never(f"{_asks(wish, device)}, and the budget there is {size(ceiling)}")
        if needed > ceiling - kept:
            names = ", ".join(h.name for h in pinned)
            held = f"{size(kept)} are held by what is pinned ({names})"
            return Never(f"{_asks(wish, device)}; of the budget of {size(ceiling)}, {held}")
        if others and at.foreign and needed > ceiling - kept - at.foreign:
            used = f"{size(at.foreign)} are used by other programs"
            return Never(f"{_asks(wish, device)}; of the budget of {size(ceiling)}, {used}", True)
    return None


def _asks(wish: Wish, device: str) -> str:
    return f"{wish.name} needs {size(wish.needed[device])} on {device}"


def weighed(holdings: Iterable[Holding], chosen: frozenset[str] = frozenset()) -> list[Weighed]:
    """The holdings as a journal keeps them."""
    return [
        Weighed(model=h.name, frees=h.frees, cost=round(h.cost, 6), why_not=h.why_not, chosen=h.key in chosen)
        for h in holdings
    ]


def _sizes(shortage: Mapping[str, int]) -> str:
    return " and ".join(f"{size(count)} on {device}" for device, count in sorted(shortage.items()))


def _busy(holdings: Iterable[Holding], shortage: Mapping[str, int]) -> str:
    reasons = [f"{h.name} is {h.why_not}" for h in holdings if h.why_not]
    return f"{_sizes(shortage)} more are needed, and {', '.join(reasons) or 'nothing can go'}"
