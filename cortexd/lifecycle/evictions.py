"""Making room: what was chosen to go is closed, parked or unloaded, and the journal is told why."""

from collections.abc import Mapping

from cortexd.lifecycle.admission import Chosen, Evict, Wish, choose, weighed
from cortexd.lifecycle.decisions import Decisions
from cortexd.lifecycle.managed_model import Drain, ManagedModel
from cortexd.lifecycle.policy import Policy
from cortexd.lifecycle.states import State
from cortexd.lifecycle.transitions import Transitions
from cortexd.lifecycle.view import View


class Evictions:
    """Part of the supervisor, which settles after each call."""

    def __init__(
        self,
        models: Mapping[str, ManagedModel],
        policy: Policy,
        view: View,
        transitions: Transitions,
        decisions: Decisions,
    ) -> None:
        self._models = models
        self._policy = policy
        self._view = view
        self._step = transitions
        self._decided = decisions.note

    def make_room(self, model: ManagedModel, wish: Wish, verdict: Evict) -> None:
        """These go for `model`: at once where they are idle; what is in use is closed, and goes when it is left or suspended."""
        keys, reason = verdict.keys, verdict.reason
        holdings = self._view.holdings()
        owner = next((lease.owner for lease in model.waiters), None)
        shown = weighed(holdings, keys)
        for holding in holdings:
            if holding.key not in keys:
                continue
            victim = self._models[holding.key]
            model.evicted.append(holding.name)
            closing = bool(holding.why_not) and victim.state is State.READY
            kind, verb = ("close", "closed") if closing else ("evict", "evicted")
            self._decided(kind, victim, f"{verb} because {reason}", owner=owner, weighed=shown, needed=wish.needed)
            if closing:
                suspend_at = self._view.now() + self._policy.suspend_after
                self._step.drain(
                    victim, Drain(f"room for {model.spec.name}", needed_by=model.key, suspend_at=suspend_at)
                )
            else:
                self._evict(victim, f"evicted for {model.spec.name}", owner, park=verdict.park)

    def relieve_all(self) -> bool:
        """Where more is held than there is, because something has grown, idle models go. Whether any did."""
        coming = self._view.coming()
        gone = False
        for device, memory in self._view.memory().items():
            if (excess := -memory.free - coming.get(device, 0)) > 0:
                gone |= self.relieve(device, excess, f"more is held on {device} than there is")
        return gone

    def relieve(self, device: str, excess: int, reason: str) -> bool:
        """The cheapest idle models go until `excess` bytes come back, or all of them where they do not suffice."""
        idle = [h for h in self._view.holdings() if not h.why_not and h.frees.get(device, 0) > 0]
        chosen = choose(idle, {device: excess}) or Chosen(frozenset(h.key for h in idle), park=False)
        for key in chosen.keys:
            self._decided("evict", self._models[key], f"evicted because {reason}", weighed=weighed(idle, chosen.keys))
            self._evict(self._models[key], reason, None, park=chosen.park)
        return bool(chosen.keys)

    def _evict(self, victim: ManagedModel, reason: str, owner: str | None, *, park: bool) -> None:
        if victim.state is State.READY:
            self._step.let_go(victim, reason, park=park, owner=owner)
        else:
            self._step.unload(victim, reason)
