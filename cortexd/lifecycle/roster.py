"""Which models there are and what they go by: one worker may have several names, and a name changes hands with its spec."""

from collections.abc import Callable, Sequence

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import Unavailable
from cortexd.events import Event
from cortexd.lifecycle.decisions import Decisions
from cortexd.lifecycle.managed_model import Drain, ManagedModel
from cortexd.lifecycle.states import HELD, LOADS, State
from cortexd.lifecycle.transitions import Transitions


class Roster:
    """Part of the supervisor, which settles after each change. `models` is by key, the hash of the spec."""

    def __init__(
        self,
        models: dict[str, ManagedModel],
        transitions: Transitions,
        decisions: Decisions,
        publish: Callable[[Event], None],
        now: Callable[[], float],
    ) -> None:
        self.models = models
        self._names: dict[str, ManagedModel] = {}
        self._step = transitions
        self._decided = decisions.note
        self._publish = publish
        self._now = now

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
            self._step.reopen(model)
        self._names[spec.name] = model
        model.names[spec.name] = spec
        if model.spec.name == spec.name or model.spec.name not in model.names:
            model.spec = spec  # what can change live has its effect from now on
        elif before is not model:
            self._decided("share", model, f"{spec.name} is the same as {model.spec.name} and shares its worker")
        return model

    def in_memory(self, name: str) -> ModelSpec | None:
        """What goes by this name and has a worker, though its file may be damaged by now."""
        model = self._names.get(name)
        return model.names[name] if model is not None and model.state in HELD else None

    def reconcile(self, specs: Sequence[ModelSpec]) -> None:
        """What these specs do not name any more goes when it is left; what they have changed is loaded anew when next asked for."""
        current = {spec.name: spec.hash for spec in specs}
        damaged = {spec.name for spec in specs if spec.problem is not None}
        for name, model in tuple(self._names.items()):
            unreadable = name in damaged and model.state in HELD  # half copied, perhaps: better the old one than none
            if current.get(name) != model.key and not unreadable and model.spec.source != "synthetic":
                self._retire(model, name, "its configuration has changed" if name in current else "it was removed")

    def _retire(self, model: ManagedModel, name: str, reason: str) -> None:
        """It does not go by this name any more; without any, it goes when it is left."""
        del model.names[name], self._names[name]
        if model.names:
            if model.spec.name == name:  # whoever shares it gives it its name
                model.spec = next(iter(model.names.values()))
        elif model.state in (State.READY, State.DRAINING):
            self._step.drain(model, Drain(reason))
        elif model.state not in LOADS:  # what lies at its path now is something else
            error = Unavailable(f"{name} has changed; ask again.", retry_after=1.0)
            model.lose_suspended(error)
            model.refuse_waiters(lambda: error)


def _nobody(event: Event) -> None:
    """Who is told of the synthetic model."""
