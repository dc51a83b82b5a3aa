"""What engines may keep of what they have read, so that they need not read it again: one rule for all that run."""

import shutil
from pathlib import Path

import msgspec

from cortexd.engines.audience import Audience
from cortexd.wire import CacheLimits, ForgetStates


class KeptStates(Audience[CacheLimits | ForgetStates]):
    """`directory` is where they outlive their engines; None: nowhere. A change reaches every engine that runs."""

    def __init__(self, limits: CacheLimits, directory: Path | None) -> None:
        super().__init__()
        self.limits = limits
        self.directory = directory

    @property
    def room(self) -> int:
        """Bytes of memory that the states of one engine may take."""
        return self.limits.host if self.limits.enabled else 0

    def change(self, limits: CacheLimits) -> None:
        if limits != self.limits:
            self.limits = limits
            self._tell(limits)

    def relieve(self) -> None:
        """Have the memory back that they take; what is on the disk stays, and what is read from now on is kept again."""
        self._tell(msgspec.structs.replace(self.limits, host=0))
        self._tell(self.limits)

    def forget_in_memory(self) -> None:
        """Engines that run drop theirs; what they are asked from now on finds none."""
        self._tell(ForgetStates())

    def forget_on_disk(self) -> None:
        """Also those of models that are not loaded. From any thread; takes as long as the disk does."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
