"""Whether a new version of a model does worse than the one that it is to replace. Pure: it is told what happened."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from cortexd.lifecycle.evidence import Count, Slowness, more_failures

FALSE_ALARMS = 0.01  # at most so many of targets no worse than the baseline are taken away within HORIZON requests
HORIZON = 2000  # requests to a target; then it is judged anew, so that what becomes worse later is found too

_SLOWER = 1.25  # times the baseline's median time to the first token,
_SLOWER_MS = 20.0  # and so much more: what is less does no harm


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request, as far as its target is to be judged by it."""

    loaded: bool | None = None  # whether the load that it waited for succeeded; None: it was ready
    failed: bool = False  # also where it could not be loaded
    first_token_ms: float | None = None  # since the lease was granted, so that no load counts
    session: str = ""  # by which its target was drawn; "": it was drawn for this request alone

    @classmethod
    def of(
        cls, status: int, *, loaded: bool | None = None, first_token_ms: float | None = None, session: str = ""
    ) -> "Outcome | None":
        """By its HTTP status; None where that says nothing of the target, as the client was mistaken or has left."""
        if 400 <= status < 500:
            return None
        failed = status >= 500
        return cls(loaded=loaded, failed=failed, first_token_ms=None if failed else first_token_ms, session=session)


class Verdict(msgspec.Struct, frozen=True):
    """A target that is to be taken away."""

    target: str
    cause: Literal["load", "failures", "first_token"]
    reason: str  # one sentence, with the figures


class _Comparison(msgspec.Struct):
    """A target beside the baseline."""

    own: Count = msgspec.field(default_factory=Count)
    baseline: Count = msgspec.field(default_factory=Count)
    slowness: Slowness = msgspec.field(default_factory=Slowness)

    def note(self, is_own: bool, failed: bool, first_token_ms: float | None) -> None:
        (self.own if is_own else self.baseline).note(failed)
        if first_token_ms is not None:
            self.slowness.note(is_own, first_token_ms)


class Trial:
    """All targets of an alias beside the heaviest of them. A verdict stands: where targets or weights change, begin another.

    Sessions keep to their targets, and some have long prompts: were each of their first tokens compared, it would be sessions
    that are compared, not targets. So each session's counts once in HORIZON requests. All its failures count: they are rarely
    a session's fault, and a target that always fails must not be left to those who have it. FALSE_ALARMS holds as far as that
    is so.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        """`targets` as `Split.targets` has them: the baseline first."""
        self._baseline, *others = targets
        self._comparisons = {target: _Comparison() for target in others}
        self._has_loaded: set[str] = set()
        self._requests = 0
        self._counted: dict[str, int] = {}  # by session, at which request its first token counted: the oldest first
        self._convincing = 2 * len(others) / FALSE_ALARMS  # evidence, of two kinds for each target
        self._verdict: Verdict | None = None

    def note(self, target: str, outcome: Outcome) -> None:
        """A request to this target has ended; one to any other is ignored."""
        self._requests += 1
        first_token_ms = None if self._is_repeated(outcome) else outcome.first_token_ms
        if target == self._baseline:
            for comparison in self._comparisons.values():
                comparison.note(False, outcome.failed, first_token_ms)
        elif (comparison := self._comparisons.get(target)) is not None:
            comparison.note(True, outcome.failed, first_token_ms)
            if outcome.loaded or not outcome.failed:
                self._has_loaded.add(target)
            self._verdict = self._verdict or self._judged(target, comparison, outcome)
            if comparison.own.requests == HORIZON:
                self._comparisons[target] = _Comparison()

    def verdict(self) -> Verdict | None:
        """The first that there was reason for; None while there is none."""
        return self._verdict

    def _is_repeated(self, outcome: Outcome) -> bool:
        while self._counted and self._requests - next(iter(self._counted.values())) >= HORIZON:
            del self._counted[next(iter(self._counted))]
        if not outcome.session or outcome.first_token_ms is None:
            return False
        return self._counted.setdefault(outcome.session, self._requests) != self._requests

    def _judged(self, target: str, comparison: _Comparison, outcome: Outcome) -> Verdict | None:
        if outcome.loaded is False and target not in self._has_loaded:
            return Verdict(target, "load", f"{target} could not be loaded, and never has been.")
        own, baseline, slowness = comparison.own, comparison.baseline, comparison.slowness
        if more_failures(own, baseline) >= self._convincing:
            figures = f"{own.failures} of {own.requests} requests, {self._baseline} {baseline.failures} of {baseline.requests}"
            return Verdict(target, "failures", f"{target} failed {figures}.")
        if slowness.evidence >= self._convincing:
            ms, baseline_ms = slowness.medians()
            if ms >= max(_SLOWER * baseline_ms, baseline_ms + _SLOWER_MS):
                figures = f"{ms:.0f} ms to the first token, {self._baseline} {baseline_ms:.0f} ms"
                return Verdict(target, "first_token", f"{target} took {figures} (medians).")
        return None
