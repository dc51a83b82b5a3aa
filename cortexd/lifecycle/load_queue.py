"""The models that wait to be loaded, and what is done about each verdict on them."""

from collections.abc import Mapping

from cortexd.errors import CannotFit, Unavailable
from cortexd.lifecycle.admission import Await, Evict, Never, Start, Verdict, Wish, weighed
from cortexd.lifecycle.decisions import Decisions
from cortexd.lifecycle.evictions import Evictions
from cortexd.lifecycle.managed_model import ManagedModel
from cortexd.lifecycle.planning import decide
from cortexd.lifecycle.transitions import Transitions
from cortexd.lifecycle.view import View

_PATIENCE = 10.0  # seconds after which it may be worth asking again for memory that other programs hold


class LoadQueue:
    """Part of the supervisor, which settles after each call. Order and verdicts are those of `planning`."""

    def __init__(
        self,
        models: Mapping[str, ManagedModel],
        view: View,
        transitions: Transitions,
        evictions: Evictions,
        decisions: Decisions,
    ) -> None:
        self._models = models
        self._view = view
        self._step = transitions
        self._evictions = evictions
        self._decided = decisions.note

    def serve(self) -> bool:
        """Act on the verdicts up to the first that changes something. Whether any did."""
        changed = False
        for wish, verdict in decide(self._view.world()):
            changed |= self._obey(self._models[wish.key], wish, verdict)
        return changed

    def check(self, model: ManagedModel, owner: str) -> None:
        """Raises CannotFit or Unavailable, and tells the journal, where no waiting would give it the memory it needs."""
        if (never := self._view.never_fits(model)) is not None:
            self._refuse(model, self._view.wish(model), never, owner)
            raise _refusal(never)

    def reopen_spared(self) -> bool:
        """What was closed for a model that waits no more is open again. Whether any was."""
        changed = False
        for model in tuple(self._models.values()):
            if (key := model.draining_for) and not self._waits(key):
                self._step.reopen(model)
                changed = True
        return changed

    def _waits(self, key: str) -> bool:
        return key in self._models and self._view.waits_for_load(self._models[key])

    def _obey(self, model: ManagedModel, wish: Wish, verdict: Verdict) -> bool:
        match verdict:
            case Start():
                self._step.begin_load(model)
            case Evict():
                self._evictions.make_room(model, wish, verdict)
            case Never():
                self._refuse(model, wish, verdict, None)
                model.refuse_waiters(lambda: _refusal(verdict))
                model.lose_suspended(_refusal(verdict))
            case Await(reason):
                if model.told_to_wait != model.wanted_since:
                    model.told_to_wait = model.wanted_since
                    waits, shown = f"{wish.name} waits: {reason}", weighed(self._view.holdings())
                    self._decided("queue", model, waits, weighed=shown, needed=wish.needed)
                return False
        return True

    def _refuse(self, model: ManagedModel, wish: Wish, never: Never, owner: str | None) -> None:
        shown = weighed(self._view.holdings())
        self._decided("refuse", model, never.reason, owner=owner, weighed=shown, needed=wish.needed)


def _refusal(never: Never) -> Unavailable | CannotFit:
    if never.passing:
        return Unavailable(f"{never.reason}.", retry_after=_PATIENCE)
    return CannotFit(f"{never.reason}.")
