"""Policies side by side: what each spent on one trace under one budget, and how far that is from LRU and from the optimum."""

from collections.abc import Callable

import msgspec

from cortexd.errors import InvalidConfiguration
from cortexd.simulation.clairvoyant import Optimum, clairvoyant
from cortexd.simulation.replay import CostAware, LeastRecentlyUsed, Outcome, Policy, replay
from cortexd.simulation.traces import Trace

POLICIES: dict[str, Callable[[int], Policy]] = {"cost-aware": CostAware, "lru": LeastRecentlyUsed}


class Row(msgspec.Struct, frozen=True):
    """One policy. A ratio is of load-seconds; None where the other spent none."""

    policy: str
    outcome: Outcome
    cold_start_rate: float  # of all requests
    to_lru: float | None
    to_optimum: float | None


class Comparison(msgspec.Struct, frozen=True):
    """One trace under one budget."""

    trace: str
    budget: int  # bytes
    optimum: Optimum
    rows: tuple[Row, ...]


def compare(name: str, trace: Trace, budget: int) -> Comparison:
    """Raises InvalidConfiguration where a model does not fit into `budget` bytes even alone."""
    for model in trace.models:
        if model.bytes > budget:
            raise InvalidConfiguration(
                f"{name}: {model.name} needs {model.bytes} bytes, and the budget has only {budget}."
            )
    outcomes = {policy: replay(trace, budget, make(budget)) for policy, make in POLICIES.items()}
    optimum = clairvoyant(trace, budget)
    rows = tuple(
        Row(
            policy=policy,
            outcome=outcome,
            cold_start_rate=outcome.cold_starts / outcome.requests,
            to_lru=_ratio(outcome.load_seconds, outcomes["lru"].load_seconds),
            to_optimum=_ratio(outcome.load_seconds, optimum.load_seconds),
        )
        for policy, outcome in outcomes.items()
    )
    return Comparison(name, budget, optimum, rows)


def _ratio(seconds: float, others: float) -> float | None:
    return seconds / others if others else None
