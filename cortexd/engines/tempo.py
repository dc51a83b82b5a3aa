"""How long a step of an engine may take while streams run: one rule for all that run."""

from cortexd.engines.audience import Audience
from cortexd.wire import StepTarget


class Tempo(Audience[StepTarget]):
    def __init__(self, target: float) -> None:
        """In seconds; 0: as long as it likes."""
        super().__init__()
        self.target = target

    def change(self, target: float) -> None:
        if target != self.target:
            self.target = target
            self._tell(StepTarget(target))
