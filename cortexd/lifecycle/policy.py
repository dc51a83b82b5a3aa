"""What the supervisor is configured to do."""

from enum import IntEnum

import msgspec


class Priority(IntEnum):
    """Why a model is wanted; what is wanted more comes first, and nothing waits behind it for ever."""

    REQUEST = 0
    ADMIN = 1
    PRELOAD = 2
    PREDICTED = 3


class Policy(msgspec.Struct, kw_only=True):
    """All times in seconds, all sizes in bytes. One object is shared, and read anew whenever it matters; see `adopt`."""

    keep_alive: float = 300.0  # from the end of the last use until a model leaves its device; negative: for ever
    parked_keep_alive: float = 3600.0  # from then until its worker ends
    parallel_loads: int = 2
    queue_limit: int = 1024  # requests waiting for one model
    linger: float = 3.0  # a load goes on that long after the last who wanted it has left
    max_wait: float = 30.0  # after which a queued model closes those that block it
    suspend_after: float = 5.0  # from then until generations that still run are suspended
    aging: float = 20.0  # a class of priority is worth so much waiting
    # A model is not evicted sooner after it became ready than so many times its load took.
    residency_per_load: float = 1.0
    max_residency: float = 30.0  # but never longer than this, or than its load where that took more
    load_stall: float = 120.0  # without progress until a load is given up
    unload_grace: float = 5.0  # between asking a worker to end and ending it
    unload_deadline: float = 15.0  # after which a worker that will not go is killed again and told of
    ping_interval: float = 10.0
    ping_deadline: float = 60.0  # without an answer until an engine counts as hung
    host_tier: int = 0  # most that parked models may hold of the host's memory

    def adopt(self, other: "Policy") -> None:
        """Take over every value, so that all who hold this policy see them."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(other, name))
