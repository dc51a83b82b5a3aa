"""Aliases that lead to several targets: each of them on trial beside the heaviest, and taken away where it does worse."""

from collections.abc import Callable
from typing import Any

from cortexd.catalogue.split import Split
from cortexd.config import Settings
from cortexd.events import Event, RequestEnded
from cortexd.lifecycle.trial import Outcome, Trial, Verdict

_LOAD_FAILURES = {"model_load_failed", "unsupported_checkpoint", "model_too_large"}  # codes of what a load ends with


class Canaries:
    """Told of every request that ended; tells of each verdict once."""

    def __init__(self, take_away: Callable[[str, Verdict], None]) -> None:
        """`take_away(alias, verdict)` is to have the target get no sessions any more."""
        self._take_away = take_away
        self._splits: dict[str, Split] = {}
        self._trials: dict[str, Trial] = {}

    def adopt(self, settings: Settings) -> None:
        """Where weights have changed, a trial begins anew."""
        splits = {alias.name.lower(): Split.of(alias.to) for alias in settings.alias if alias.revert}
        splits = {name: split for name, split in splits.items() if len(split.targets) > 1}
        self._trials = {
            name: self._trials[name] if self._splits.get(name) == split else Trial(split.targets)
            for name, split in splits.items()
        }
        self._splits = splits

    def note(self, event: Event) -> None:
        """A listener."""
        if not isinstance(event, RequestEnded) or event.chosen is None:
            return
        alias = event.chosen.alias
        trial = self._trials.get(alias)
        if trial is None or (outcome := _outcome(event)) is None:
            return
        trial.note(event.chosen.target, outcome)
        if (verdict := trial.verdict()) is not None:
            del self._trials[alias]
            self._take_away(alias, verdict)


def without(document: dict[str, Any], alias: str, target: str) -> dict[str, Any]:
    """The document in which this alias leads to this target no more."""
    aliases = [
        one | {"to": Split.of(one["to"]).without(target).weights} if one["name"].lower() == alias else one
        for one in document["alias"]
    ]
    return document | {"alias": aliases}


def _outcome(event: RequestEnded) -> Outcome | None:
    assert event.chosen is not None
    if event.fallback == "loading":  # answered, but not by what is on trial
        return None
    as_before = event.fallback == "failed"
    failed_to_load = as_before or event.finish in _LOAD_FAILURES
    loaded = False if failed_to_load else (True if event.load_ms > 0 else None)
    first = None if event.first_token_ms is None else event.first_token_ms - event.queue_ms - event.load_ms
    status = 503 if as_before else event.status
    if event.status == 200 and event.finish in _BROKEN_OFF:
        status = 503
    return Outcome.of(status, loaded=loaded, first_token_ms=first, session=event.chosen.session)


_BROKEN_OFF = {"engine_died", "model_error", "internal_error"}  # ends of streams whose status had been sent
