"""Count, mean and spread of a quantity, known without keeping its values."""

import math

import msgspec


class Moments(msgspec.Struct, frozen=True):
    """Of one quantity, in its unit, by Welford's recurrence: large numbers that differ little lose nothing."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of the squared distances from the mean

    def including(self, value: float) -> "Moments":
        """With one value more, which is finite."""
        count = self.count + 1
        mean = self.mean + (value - self.mean) / count
        return Moments(count, mean, self.squares + (value - self.mean) * (value - mean))

    @property
    def deviation(self) -> float:
        """The standard deviation of one value, estimated from a sample; 0 where there is but one."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
