"""Stop strings, found in a text that arrives in pieces."""

from collections.abc import Sequence

import msgspec


class SavedStops(msgspec.Struct, frozen=True, array_like=True):
    """A matcher between two pieces of text."""

    stops: list[str]
    matched: list[int]
    held: str
    seen: int
    cut: int | None
    stopped: bool


class StopMatcher:
    """Cuts a text where the first stop string begins: of several, the one that begins earliest.

    What is released never depends on how the text was cut into pieces. A stop string that lies inside the beginning of a
    longer one waits for the longer one to fail or to match. Empty stop strings are ignored.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._automata = [_Automaton(stop) for stop in dict.fromkeys(stops) if stop]
        self._held = ""  # not yet released
        self._seen = 0  # characters, up to the end of what is held
        self._cut: int | None = None  # where the earliest stop string so far begins
        self._stopped = False

    @classmethod
    def restored(cls, saved: SavedStops) -> "StopMatcher":
        matcher = cls(saved.stops)
        for automaton, matched in zip(matcher._automata, saved.matched, strict=True):
            automaton.matched = matched
        matcher._held, matcher._seen, matcher._cut, matcher._stopped = saved.held, saved.seen, saved.cut, saved.stopped
        return matcher

    def save(self) -> SavedStops:
        stops = [automaton.stop for automaton in self._automata]
        matched = [automaton.matched for automaton in self._automata]
        return SavedStops(stops, matched, self._held, self._seen, self._cut, self._stopped)

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is safe to release, and whether a stop string was found; after that, nothing more is."""
        if self._stopped or not text:
            return "", self._stopped
        for char in text:
            self._seen += 1
            for automaton in self._automata:
                if (length := automaton.advance(char)) and (self._cut is None or self._seen - length < self._cut):
                    self._cut = self._seen - length
        start = self._seen - len(self._held) - len(text)
        open_from = self._seen - max((automaton.matched for automaton in self._automata), default=0)
        self._stopped = self._cut is not None and self._cut <= open_from
        safe = open_from if self._cut is None else min(self._cut, open_from)
        text = self._held + text
        self._held = "" if self._stopped else text[safe - start :]
        return text[: safe - start], self._stopped

    def finish(self) -> str:
        """What was held back and can no longer become a stop string."""
        held, self._held = self._held, ""
        if self._cut is not None and not self._stopped:
            held = held[: self._cut - (self._seen - len(held))]
        self._stopped = True
        return held


class _Automaton:
    """Knuth, Morris and Pratt: `matched` characters of the stop string are the end of the text so far."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self._borders = _borders(stop)
        self.matched = 0

    def advance(self, char: str) -> int:
        """The length of the stop string if this character completes it, otherwise 0."""
        matched = self.matched
        while matched and self.stop[matched] != char:
            matched = self._borders[matched - 1]
        if self.stop[matched] == char:
            matched += 1
        if matched < len(self.stop):
            self.matched = matched
            return 0
        self.matched = 0  # what overlaps it begins later, and no longer counts
        return matched


def _borders(stop: str) -> list[int]:
    """For each prefix the length of its longest proper prefix that is also its end."""
    borders = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = borders[length - 1]
        if stop[i] == stop[length]:
            length += 1
        borders[i] = length
    return borders
