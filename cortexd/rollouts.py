"""Which spec answers for a model whose configuration changes: the new one from when it has proved that it loads, and until then,
and if it does not, the last one that did.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from cortexd.catalogue.catalogue import Edition
from cortexd.catalogue.spec import ModelSpec
from cortexd.change_plan import fits_beside
from cortexd.checkpoints.identity import identity_of
from cortexd.errors import CannotFit, CortexdError, LoadFailed
from cortexd.events import Event, ModelMoved
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.states import GOING, HELD, State
from cortexd.lifecycle.supervisor import Supervisor

_OWNER = "configuration"
_FIRST_RETRY, _LONGEST_RETRY = (
    60.0,
    3600.0,
)  # seconds until a spec that does not load is tried again beside the one that does


class Proven(msgspec.Struct, frozen=True):
    """A spec that has loaded, and the newest version of the configuration that had it."""

    spec: ModelSpec
    version: int


class Served(msgspec.Struct, frozen=True):
    """What answers a request."""

    spec: ModelSpec
    version: int | None  # of the configuration in force
    fallback: int | None = None  # the version whose spec answers in place of that of `version`

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
        keep: Callable[[str, Proven], None],
        on_proven: Callable[[int], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        """`reconcile` has the supervisor see what is served now; `keep` remembers what has loaded beyond our life; `on_proven`
        is told a version of the configuration each time that a model has loaded as it says for the first time.
        """
        self.version: int | None = None
        self._supervisor = supervisor
        self._reconcile = reconcile
        self._keep = keep
        self._on_proven = on_proven
        self._on_bug = on_bug
        self._proven: dict[str, Proven] = {}
        self._failed: dict[str, _Failure] = {}
        self._successors: dict[str, ModelSpec] = {}  # being loaded beside what answers, by the model's name
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def recall(self, proven: Mapping[str, Proven]) -> None:
        """What earlier daemons kept."""
        self._proven |= proven

    def serving(self, wanted: ModelSpec) -> Served:
        """What answers for this model now."""
        last = self._last(wanted)
        if last is None:
            return Served(wanted, self.version)
        if wanted.name in self._successors:
            return Served(last.spec, self.version, last.version)
        failure = self._failed.get(wanted.name)
        if failure is None or failure.hash != wanted.hash:
            return Served(wanted, self.version)
        if self._supervisor.view.now() >= failure.until and wanted.name not in self._tasks and wanted.problem is None:
            self._start(wanted, last, beside=True)
        return Served(last.spec, self.version, last.version)

    def fall_back(self, wanted: ModelSpec, error: CortexdError) -> Served | None:
        """What answers instead of what could not be loaded; None where nothing else ever has."""
        if not isinstance(error, LoadFailed | CannotFit) or (last := self._last(wanted)) is None:
            return None
        before = self._failed.get(wanted.name)
        again = before is not None and before.hash == wanted.hash
        delay = min(2 * before.delay, _LONGEST_RETRY) if before is not None and again else _FIRST_RETRY
        until = self._supervisor.view.now() + delay
        self._failed[wanted.name] = _Failure(wanted.hash, error.message, delay, until)
        if not again:
            model = self._supervisor.manage(last.spec)
            self._supervisor.decisions.note(
                "fallback",
                model,
                f"as version {self.version} of the configuration has it, it does not load ({error.message.rstrip('.')}); "
                f"it answers as version {last.version} had it",
                owner=_OWNER,
            )
        return Served(last.spec, self.version, last.version)

    def fallbacks(self, wanted: Sequence[ModelSpec]) -> dict[str, Fallback]:
        """Of these, the models that answer as an earlier version had them because they do not load as they are wanted."""
        found: dict[str, Fallback] = {}
        for spec in wanted:
            failure, last = self._failed.get(spec.name), self._last(spec)
            if failure is not None and last is not None and failure.hash == spec.hash:
                found[spec.name] = Fallback(last.version, failure.reason)
        return found

    def specs(self, wanted: Sequence[ModelSpec]) -> list[ModelSpec]:
        """All that is to be kept: what answers for each, and what is being loaded to take its place."""
        return [*(self.serving(spec).spec for spec in wanted), *self._successors.values()]

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
        self._failed = {name: old for name, old in self._failed.items() if hashes.get(name) == old.hash}
        self._cancel()
        for spec in wanted:
            self._succeed(spec)

    def note(self, event: Event) -> None:
        """A listener: what is ready has proved itself."""
        if not isinstance(event, ModelMoved) or event.after != State.READY:
            return
        for model in tuple(self._supervisor.models.values()):
            if model.state is State.READY and model.spec.source != "synthetic":
                for spec in model.names.values():
                    if Edition.of(spec.name) is None:  # those never change
                        self._loaded(spec)

    async def close(self) -> None:
        tasks = tuple(self._tasks.values())
        self._cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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

    def _succeed(self, wanted: ModelSpec) -> None:
        if (last := self._last(wanted)) is None:
            return
        if wanted.problem is not None:
            self.fall_back(wanted, LoadFailed(wanted.problem))
        elif self._is_loaded(last.spec):
            self._start(wanted, last, beside=fits_beside(wanted, self._supervisor))

    def _start(self, wanted: ModelSpec, last: Proven, *, beside: bool) -> None:
        name = wanted.name
        if beside:
            self._successors[name] = msgspec.structs.replace(wanted, name=f"{name}@{self.version or 0}", aliases=())
        task = asyncio.create_task(self._replace(wanted, last, beside=beside), name=f"a new {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda ended: self._ended(name, ended))

    async def _replace(self, wanted: ModelSpec, last: Proven, *, beside: bool) -> None:
        spec = self._successors[wanted.name] if beside else wanted
        try:
            async with self._supervisor.lease(spec, owner=_OWNER, priority=Priority.PRELOAD):
                self._loaded(wanted)
                self._successors.pop(wanted.name, None)
                self._supervisor.manage(
                    wanted
                )  # from now on it is the one of this name; the old one goes when it is left
                self._reconcile()
        except CortexdError as error:
            self._successors.pop(wanted.name, None)
            self.fall_back(wanted, error)
            self._reconcile()
            if not beside:
                await self._regain(last.spec)

    async def _regain(self, spec: ModelSpec) -> None:
        """It was loaded, and had to go for one that does not load."""
        try:
            async with self._supervisor.lease(spec, owner=_OWNER, priority=Priority.PRELOAD):
                pass
        except CortexdError:  # who asks for it is told
            pass

    def _cancel(self) -> None:
        tasks, self._tasks = self._tasks, {}
        self._successors = {}
        for task in tasks.values():
            task.cancel()

    def _ended(self, name: str, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)


def _is_there(spec: ModelSpec) -> bool:
    """Whether its file is still the one that loaded; what has no file needs none."""
    if not spec.path:
        return True
    try:
        return identity_of(Path(spec.path)) == spec.weights
    except OSError:
        return False
