"""Why things were done: one event a decision, with what was weighed and the arithmetic of that moment."""

from collections.abc import Callable, Mapping, Sequence
from time import time
from types import MappingProxyType

import msgspec

from cortexd.events import Arithmetic, Decided, DecisionKind, Weighed
from cortexd.lifecycle.managed_model import ManagedModel


class Decisions:
    """Published as they are made; a journal listens."""

    def __init__(self, memory: Callable[[], dict[str, Arithmetic]]) -> None:
        self.config: int | None = None  # version in force
        self._memory = memory

    def note(
        self,
        kind: DecisionKind,
        model: ManagedModel,
        reason: str,
        *,
        owner: str | None = None,
        weighed: Sequence[Weighed] = (),
        needed: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`reason` is one plain sentence without its full stop; `owner` the request or service on whose behalf; `needed` the bytes
        by device that the decision is about.
        """
        for name in model.names or (model.spec.name,):  # whoever asks why, asks by a name
            model.publish(
                Decided(
                    at=time(),
                    kind=kind,
                    model=name,
                    incarnation=model.incarnation,
                    reason=reason,
                    owner=owner,
                    weighed=list(weighed),
                    memory={
                        device: msgspec.structs.replace(arithmetic, needed=needed.get(device, 0))
                        for device, arithmetic in self._memory().items()
                    },
                    config=self.config,
                )
            )
