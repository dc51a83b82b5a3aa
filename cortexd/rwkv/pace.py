"""How much of a prompt is read in one step, so that no step holds up the streams that run beside it."""

from collections.abc import Sequence

from cortexd.rwkv.batch import Piece

_LEAST, _BUNDLE = 4, 16  # tokens of a prompt in a step that has room for it, and in one that has not
_MOST_SKIPPED = 15  # steps in a row without any, while a prompt waits
_FOR_PROMPTS = 0.5  # of the time that streams alone take, which prompts may have whatever the target is
_MEMORY = 16  # steps: what was measured longer ago counts for little
_OUTLIER = 4.0  # times what was expected: more tells of the machine, not of the model


class Line:
    """Seconds over a count, both of which wander: a straight line through what was measured last, and never one that falls."""

    def __init__(self) -> None:
        self._seen = 0
        self._x = self._y = self._xx = self._xy = 0.0  # means, variance and covariance

    def at(self, x: float) -> float:
        """0 where nothing was measured yet."""
        slope, start = self._fit()
        return start + slope * x

    def where(self, y: float) -> float:
        """The count that takes `y` seconds; without end where none is known to take any."""
        slope, start = self._fit()
        if slope > 0:
            return (y - start) / slope
        return float("inf") if y >= start else -1.0

    def note(self, x: float, y: float) -> None:
        if self._seen and (expected := self.at(x)) > 0:
            y = min(y, _OUTLIER * expected)
        self._seen += 1
        share = max(1 / self._seen, 1 / _MEMORY)
        from_x, from_y = x - self._x, y - self._y
        self._x += share * from_x
        self._y += share * from_y
        self._xx = (1 - share) * (self._xx + share * from_x * from_x)
        self._xy = (1 - share) * (self._xy + share * from_x * from_y)

    def _fit(self) -> tuple[float, float]:
        """Slope and start. Where counts hardly differ, they are taken to cost as much each as on average."""
        if not self._x:
            return 0.0, self._y
        average = self._y / self._x
        little = 1e-3 * self._x * self._x
        slope = (self._xy + little * average) / (self._xx + little)
        slope = min(max(slope, 0.0), max(average, 0.0))
        return slope, self._y - slope * self._x


class Pace:
    """Learns from each step what streams cost, and what prompts cost beside them.

    `target` is the longest that a step with running streams should take, in seconds; 0: as long as it likes. Streams that alone
    take nearly as long still leave prompts a third of the time. Prompts have up to `budget` tokens of a step. Where `exact`, a
    prompt may be cut anywhere without a bit of its state changing. What alone takes too long is read now and then, such that
    steps keep to the target on average.
    """

    def __init__(self, target: float, budget: int, *, exact: bool = False) -> None:
        self.target = target
        self.exact = exact
        self._budget = budget
        self._streams = Line()  # seconds of a step without prompts, over its streams
        self._prompts = Line()  # what prompts add to that, over their tokens
        self._owed = 0.0  # seconds by which a step took too long, as far as those after it have not made them good
        self._skipped = 0

    def room(self, streams: int, piece: int) -> int:
        """Tokens of prompts in a step beside so many streams: enough for `piece`, the next one in turn, or for some of it if
        `exact`; or none. Asked once for each step in which prompts wait.
        """
        if not streams or not self.target:
            return max(self._budget, piece)
        least, bundle = (min(_LEAST, piece), min(_BUNDLE, piece)) if self.exact else (piece, piece)
        most = self._prompts.where(self._allowed(streams) - self._streams.at(streams))
        if most < least and self._owed and self._skipped < _MOST_SKIPPED:
            self._skipped += 1
            return 0
        self._skipped = 0
        return max(least, int(min(most, self._budget))) if most >= least else bundle

    def note(self, pieces: Sequence[Piece], seconds: float) -> None:
        """A step of these took so long."""
        lengths = [len(piece.tokens) for piece in pieces]
        streams = lengths.count(1)
        if read := sum(lengths) - streams:
            self._prompts.note(read, max(0.0, seconds - self._streams.at(streams)))
            self._owed = max(0.0, seconds - self._allowed(streams)) if streams else 0.0
        else:
            self._streams.note(streams, seconds)
            self._owed = max(0.0, self._owed - max(0.0, self._allowed(streams) - seconds))

    def _allowed(self, streams: int) -> float:
        return max(self.target, (1 + _FOR_PROMPTS) * self._streams.at(streams))
