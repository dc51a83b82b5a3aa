"""What was measured: of each figure one value a round. What is told of it is the median, and how far the rounds lie apart."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.median:.4g}"
        return f"{self.median:.4g} ({self.least:.3g}–{self.most:.3g})"


class Figures(defaultdict[str, list[float]]):
    """Of one shape, in the order of the table."""

    def __init__(self) -> None:
        super().__init__(list)

    def note(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self[name].append(value)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.items()}


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of `values` that so many per cent do not exceed: one that was measured, and with few of them the largest."""
    ranked = sorted(values)
    return ranked[max(0, -int(-len(ranked) * percent // 100) - 1)]
