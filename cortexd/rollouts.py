"""Which spec answers for a model whose configuration changes: the new one from when it has proved that it loads, and until then,
and if it does not, the last one that did.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cortexd.catalogue.catalogue import Edition
from cortexd.catalogue.spec import ModelSpec
from cortexd.checkpoints.identity import identity_of
from cortexd.errors import CannotFit, CortexdError, LoadFailed
from cortexd.events import Event, ModelMoved
from cortexd.lifecycle.states import GOING, HELD, State
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.replacement import Replacement, Room

_OWNER = "configuration"
_FIRST_RETRY, _LONGEST_RETRY = (
    60.0,
    3600.0,
)  # seconds until a spec that does not load is tried again beside the one that does

Cause = Literal["", "loading", "failed"]


class Proven(msgspec.Struct, frozen=True):
    """A spec that has loaded, and the newest version of the configuration that had it."""

    spec: ModelSpec
    version: int


class Served(msgspec.Struct, frozen=True):
    """What answers a request."""

    spec: ModelSpec
    version: int | None  # of the configuration in force
    fallback: int | None = None  # the version whose spec answers in place of that of `version`,
    cause: Cause = ""  # since that is being loaded still, or does not load

    @property
    def header(self) -> str | None:
        """As `x-cortexd-config`."""
        if self.version is None:
            return None
        return f"{self.version}; fallback={self.fallback}" if self.fallback is not None else str(self.version)


class Fallback(msgspec.Struct, frozen=True):
    """Why a model answers as an earlier version had it."""

    version: int
    reason: str


class _Failure(msgspec.Struct, frozen=True):
    hash: str  # of the spec
    reason: str
    delay: float
    until: float  # by the supervisor's clock


class Rollouts:
    """Between the catalogue, which says what is wanted, and the supervisor, which has what is there."""

    def __init__(
        self,
        supervisor: Supervisor,
        reconcile: Callable[[], None],
        keep: Callable[[str, Proven | None], None],
        on_proven: Callable[[int], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        """`reconcile` has the supervisor see what is served now; `keep` remembers what has loaded beyond our life, or forgets it;
        `on_proven` is told a version of the configuration each time that a model has loaded as it says for the first time.
        """
        self.version: int | None = None
        self._supervisor = supervisor
        self._reconcile = reconcile
        self._keep = keep
        self._on_proven = on_proven
        self._on_bug = on_bug
        self._proven: dict[str, Proven] = {}
        self._failed: dict[str, _Failure] = {}
        self._replacements: dict[str, Replacement] = {}  # by the model's name

    def recall(self, proven: Mapping[str, Proven]) -> None:
        """What earlier daemons kept."""
        self._proven |= proven

    def serving(self, wanted: ModelSpec) -> Served:
        """What answers for this model now."""
        if (last := self._last(wanted)) is None:
            return Served(wanted, self.version)
        replacement = self._replacements.get(wanted.name)
        if replacement is not None and replacement.beside:
            return self._as_before(wanted, last, "loading")
        failure = self._failed.get(wanted.name)
        if failure is None or failure.hash != wanted.hash:
            return Served(wanted, self.version)
        if self._supervisor.view.now() >= failure.until and replacement is None and wanted.problem is None:
            self._replace(wanted, last, Room(self._supervisor))
        return self._as_before(wanted, last, "failed")

    def fall_back(self, wanted: ModelSpec, error: CortexdError) -> Served | None:
        """What answers instead of what could not be loaded; None where nothing else ever has."""
        if not isinstance(error, LoadFailed | CannotFit) or (last := self._last(wanted)) is None:
            return None
        now, before = self._supervisor.view.now(), self._failed.get(wanted.name)
        if before is None or before.hash != wanted.hash:
            self._failed[wanted.name] = _Failure(wanted.hash, error.message, _FIRST_RETRY, now + _FIRST_RETRY)
            self._tell(wanted, last, error)
        elif now >= before.until:  # all who waited for one load tell of one failure
            delay = min(2 * before.delay, _LONGEST_RETRY)
            self._failed[wanted.name] = _Failure(wanted.hash, error.message, delay, now + delay)
        return self._as_before(wanted, last, "failed")

    def fallbacks(self, wanted: Sequence[ModelSpec]) -> dict[str, Fallback]:
        """Of these, the models that answer as an earlier version had them, and why."""
        found: dict[str, Fallback] = {}
        for spec in wanted:
            failure, last = self._failed.get(spec.name), self._last(spec)
            replacement = self._replacements.get(spec.name)
            if last is not None and replacement is not None and replacement.beside:
                found[spec.name] = Fallback(last.version, "as it is configured now, it is being loaded")
            elif last is not None and failure is not None and failure.hash == spec.hash:
                found[spec.name] = Fallback(last.version, failure.reason)
        return found

    def specs(self, wanted: Sequence[ModelSpec]) -> list[ModelSpec]:
        """All that is to be kept: what answers for each, and what is being loaded to take its place."""
        coming = [replacement.spec for replacement in self._replacements.values() if replacement.beside]
        return [*(self.serving(spec).spec for spec in wanted), *coming]

    def adopt(self, before: Sequence[ModelSpec], wanted: Sequence[ModelSpec], version: int | None) -> None:
        """Another configuration is in force. What is loaded is loaded anew: beside what answers where memory allows, else after
        it has gone.
        """
        for spec in before:
            proven = self._proven.get(spec.name)
            if proven is not None and proven.spec.hash == spec.hash and self.version is not None:
                self._prove(spec, self.version)
        self.version = version
        hashes = {spec.name: spec.hash for spec in wanted}
        for name in [name for name in self._proven if name not in hashes]:  # another model of this name is another
            del self._proven[name]
            self._keep(name, None)
        self._failed = {name: old for name, old in self._failed.items() if hashes.get(name) == old.hash}
        for name, replacement in tuple(self._replacements.items()):
            if hashes.get(name) != replacement.spec.hash:
                replacement.cancel()
                del self._replacements[name]
        room = Room(self._supervisor)
        for spec in wanted:
            if spec.name not in self._replacements:
                self._succeed(spec, room)

    def prove_loaded(self) -> None:
        """What is ready has proved itself, under each of its names."""
        for model in tuple(self._supervisor.models.values()):
            if model.state is State.READY and model.spec.source != "synthetic":
                for spec in tuple(model.names.values()):
                    if Edition.of(spec.name) is None:  # those never change
                        self._loaded(spec)

    def note(self, event: Event) -> None:
        """A listener."""
        if isinstance(event, ModelMoved) and event.after == State.READY:
            self.prove_loaded()

    async def close(self) -> None:
        replacements = tuple(self._replacements.values())
        self._replacements = {}
        for replacement in replacements:
            replacement.cancel()
        await asyncio.gather(*(replacement.ended() for replacement in replacements))

    def _as_before(self, wanted: ModelSpec, last: Proven, cause: Cause) -> Served:
        return Served(last.spec.labelled_like(wanted), self.version, last.version, cause)

    def _last(self, wanted: ModelSpec) -> Proven | None:
        """What loaded last under this name, where that is something else and can still be had."""
        last = self._proven.get(wanted.name)
        if last is None or last.spec.hash == wanted.hash:
            return None
        return last if self._is_loaded(last.spec) or _is_there(last.spec) else None

    def _is_loaded(self, spec: ModelSpec) -> bool:
        model = self._supervisor.models.get(spec.hash)
        return model is not None and model.state in HELD and model.state not in GOING

    def _loaded(self, spec: ModelSpec) -> None:
        proven = self._proven.get(spec.name)
        if proven is None or proven.spec.hash != spec.hash:
            self._failed.pop(spec.name, None)
            self._prove(spec, self.version or 0)
            if self.version is not None:
                self._on_proven(self.version)

    def _prove(self, spec: ModelSpec, version: int) -> None:
        proven = Proven(spec, version)
        if self._proven.get(spec.name) != proven:
            self._proven[spec.name] = proven
            self._keep(spec.name, proven)

    def _succeed(self, wanted: ModelSpec, room: Room) -> None:
        if (last := self._last(wanted)) is None:
            return
        if wanted.problem is not None:
            self.fall_back(wanted, LoadFailed(wanted.problem))
        elif self._is_loaded(last.spec):
            self._replace(wanted, last, room)

    def _replace(self, wanted: ModelSpec, last: Proven, room: Room) -> None:
        replacement = Replacement(
            self._supervisor,
            wanted,
            last.spec,
            f"{wanted.name}@{self.version or 0}",
            beside=room.take(wanted),
            on_ready=self._taken_over,
            on_failure=self._given_up,
            on_change=self._reconcile,
            on_bug=self._on_bug,
        )
        self._replacements[wanted.name] = replacement
        replacement.start()

    def _taken_over(self, replacement: Replacement) -> None:
        """From now on it is the one of this name; the old one goes when it is left."""
        self._forget(replacement)
        self._loaded(replacement.wanted)
        self._supervisor.manage(replacement.wanted)
        self._reconcile()

    def _given_up(self, replacement: Replacement, error: CortexdError) -> None:
        self._forget(replacement)
        self.fall_back(replacement.wanted, error)
        self._reconcile()

    def _forget(self, replacement: Replacement) -> None:
        if self._replacements.get(replacement.wanted.name) is replacement:
            del self._replacements[replacement.wanted.name]

    def _tell(self, wanted: ModelSpec, last: Proven, error: CortexdError) -> None:
        model = self._supervisor.manage(last.spec.labelled_like(wanted))
        reason = (
            f"as version {self.version} of the configuration has it, it does not load ({error.message.rstrip('.')}); "
            f"it answers as version {last.version} had it"
        )
        self._supervisor.decisions.note("fallback", model, reason, owner=_OWNER)


def _is_there(spec: ModelSpec) -> bool:
    """Whether its file is still the one that loaded; what has no file needs none."""
    if not spec.path:
        return True
    try:
        return identity_of(Path(spec.path)) == spec.weights
    except OSError:
        return False
