"""What an incarnation tells the supervisor. Each carries no more than its kind: who it is comes with it."""

from collections.abc import Callable

import msgspec

from cortexd.engines.protocol import EngineFacts, Suspension
from cortexd.errors import CortexdError


class Progressed(msgspec.Struct, frozen=True):
    phase: str
    fraction: float  # 0 to 1


class Loaded(msgspec.Struct, frozen=True):
    """The weights are there; the probe runs now."""

    facts: EngineFacts


class Probed(msgspec.Struct, frozen=True):
    """A real token has come out."""


class LoadBroke(msgspec.Struct, frozen=True):
    """The load has failed, and what it had begun is cleared away."""

    error: CortexdError


class Ended(msgspec.Struct, frozen=True):
    """The engine has ended or hangs, without having been told to; nothing of it is left."""

    reason: str
    out_of_memory: bool = False


class Parked(msgspec.Struct, frozen=True):
    """The device's memory has been given back; what it still holds, in bytes by device."""

    resident: dict[str, int]


class Suspended(msgspec.Struct, frozen=True):
    """Every generation has been saved."""

    suspension: Suspension


class Stopped(msgspec.Struct, frozen=True):
    """Nothing of the engine is left."""


class Measured(msgspec.Struct, frozen=True):
    """What its processes hold at the moment, in bytes by device; shared pages in part."""

    resident: dict[str, int]
    mapped: int = 0  # of what is resident on the host, in pages of files


class Bug(msgspec.Struct, frozen=True):
    """An engine raised what its contract forbids."""

    error: BaseException


Tidings = Progressed | Loaded | Probed | LoadBroke | Ended | Parked | Suspended | Stopped | Measured | Bug

Tell = Callable[[Tidings], None]
