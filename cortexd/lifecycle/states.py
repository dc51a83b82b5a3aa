"""The states of a model and the legal ways between them."""

from enum import StrEnum


class State(StrEnum):
    COLD = "cold"  # on disk only
    QUEUED = "queued"  # wanted; waits for memory or for its turn
    LOADING = "loading"  # worker starting, weights being read
    WARMING = "warming"  # one real token must come out
    READY = "ready"  # serves
    DRAINING = "draining"  # no new lease unless rescued; waits for its last lease
    PARKED = "parked"  # worker alive, the device's memory given back
    UNLOADING = "unloading"  # worker told to stop, then killed; its memory is debt until it has ended
    FAILED = "failed"  # not tried again until a time


LEGAL: dict[State, frozenset[State]] = {
    State.COLD: frozenset({State.QUEUED}),
    State.QUEUED: frozenset({State.LOADING, State.COLD}),
    State.LOADING: frozenset({State.WARMING, State.FAILED, State.UNLOADING}),
    State.WARMING: frozenset({State.READY, State.FAILED, State.UNLOADING}),
    State.READY: frozenset({State.DRAINING, State.PARKED, State.FAILED}),
    State.DRAINING: frozenset({State.READY, State.UNLOADING, State.FAILED}),
    State.PARKED: frozenset({State.LOADING, State.UNLOADING}),
    State.UNLOADING: frozenset({State.COLD, State.QUEUED}),
    State.FAILED: frozenset({State.COLD}),
}

LOADS = frozenset({State.LOADING, State.WARMING})
"""States that count against the number of loads that may run at once."""

COMING = LOADS | {State.QUEUED}
"""States in which a request that joins is answered by the load under way."""

GOING = frozenset({State.DRAINING, State.UNLOADING})
"""States in which a model is on its way out."""

HELD = LOADS | {State.READY, State.DRAINING, State.PARKED, State.UNLOADING}
"""States in which there is a worker."""
