"""One model on its way from an old spec to a new one."""

import asyncio
from collections.abc import Callable
from typing import Self

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import CortexdError, Unavailable
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.states import COMING, State
from cortexd.lifecycle.supervisor import Supervisor

_OWNER = "configuration"


class Room:
    """What is free, or on its way back, for workers that are to be loaded beside others without any model having to go."""

    def __init__(self, supervisor: Supervisor) -> None:
        view, coming = supervisor.view, supervisor.view.coming()
        self._free = {device: at.free + coming.get(device, 0) for device, at in view.memory().items()}
        self._expected = supervisor.history.expected

    def take(self, spec: ModelSpec) -> bool:
        """Whether there is room for it; then it is taken."""
        needed = {device: count for device, count in self._expected(spec).items() if device in self._free}
        if any(count > self._free[device] for device, count in needed.items() if count):
            return False
        for device, count in needed.items():
            self._free[device] -= count
        return True


class Replacement:
    """Loads the new spec: `beside` the old one under a name of its own, or after it has gone. Nothing is evicted for it.

    A load beside that finds no room after all, within the time that any model waits for memory, goes on as the other way.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        wanted: ModelSpec,
        old: ModelSpec,
        name: str,
        *,
        beside: bool,
        on_ready: Callable[[Self], None],
        on_failure: Callable[[Self, CortexdError], None],
        on_change: Callable[[], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        """`on_ready` and `on_failure` end it; `on_change` is told when it is not `beside` any more."""
        self.wanted = wanted
        self.beside = beside
        self._supervisor = supervisor
        self._old = old
        self._name = name
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._on_change = on_change
        self._on_bug = on_bug
        self._task: asyncio.Task[None] | None = None

    @property
    def spec(self) -> ModelSpec:
        """What is being loaded."""
        if not self.beside:
            return self.wanted
        return msgspec.structs.replace(self.wanted, name=self._name, aliases=(), preload=False)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"a new {self.wanted.name}")
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """It is not wanted any more. What it has loaded beside others goes at once: something else may need the memory."""
        if self._task is not None:
            self._task.cancel()
        model = self._supervisor.models.get(self.spec.hash)
        if not self.beside or model is None or set(model.names) != {self._name} or model.leases:
            return
        error = Unavailable(f"{self.wanted.name} is configured otherwise by now.")
        model.refuse_waiters(lambda: error)
        if model.state in COMING - {State.QUEUED}:
            self._supervisor.transitions.unload(model, "it is configured otherwise by now", grace=0.0)
        self._supervisor.settle()

    async def ended(self) -> None:
        """Returns when it has ended, whatever came of it."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            if not self.beside or not await self._load_beside():
                await self._load_after()
        except CortexdError as error:
            self._on_failure(self, error)
            if not self.beside:
                await self._regain()

    async def _load_beside(self) -> bool:
        """False where there is no room."""
        lease = self._supervisor.lease(self.spec, owner=_OWNER, priority=Priority.PRELOAD)
        try:
            patience = self._supervisor.policy.max_wait
            while not await lease.granted(patience):
                if self._supervisor.status(self.spec).state == State.QUEUED:
                    return False
            self._on_ready(self)
            return True
        finally:
            lease.release()

    async def _load_after(self) -> None:
        if self.beside:
            self.beside = False
            self._on_change()
        async with self._supervisor.lease(self.wanted, owner=_OWNER, priority=Priority.PRELOAD):
            self._on_ready(self)

    async def _regain(self) -> None:
        """It was loaded, and had to go for one that does not load."""
        try:
            async with self._supervisor.lease(
                self._old.labelled_like(self.wanted), owner=_OWNER, priority=Priority.PRELOAD
            ):
                pass
        except CortexdError:  # who asks for it is told
            pass

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)
