"""An engine that does what a test tells it to, for the supervisor's tests."""

import asyncio
from collections.abc import Callable

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import EngineFacts, Generation, GenerationRequest, LoadProgress
from cortexd.errors import LoadFailed


class ScriptedEngine:
    """Loads at once, answers pings, and stops at once, unless told otherwise."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.loading, self.stopping, self.pong = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for gate in (self.loading, self.stopping, self.pong):
            gate.set()
        self.stopped = False
        self._load_error: Exception | None = None
        self._probe_error: Exception | None = None
        self._slow: tuple[int, float] | None = None
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def fail_load(self, message: str) -> None:
        self._load_error = LoadFailed(message)

    def break_load(self, error: Exception) -> None:
        self._load_error = error

    def fail_probe(self, message: str) -> None:
        self._probe_error = LoadFailed(message)

    def progress_slowly(self, steps: int, pause: float) -> None:
        self._slow = (steps, pause)

    def die(self, reason: str) -> None:
        self._death.set_result(reason)

    async def start(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        steps, pause = self._slow or (0, 0.0)
        for step in range(steps):
            report(LoadProgress("reading", step / steps))
            await asyncio.wait([self._death], timeout=pause)
        await self.loading.wait()
        if self._load_error is not None:
            raise self._load_error
        return EngineFacts(description="scripted", context=1000, loaded_bytes=1)

    async def probe(self) -> None:
        if self._probe_error is not None:
            raise self._probe_error

    def generate(self, request: GenerationRequest) -> Generation:
        raise NotImplementedError("the supervisor asks for no text")

    def pids(self) -> list[int]:
        return []

    async def ping(self) -> None:
        await self.pong.wait()

    async def stop(self, grace: float) -> None:
        await self.stopping.wait()
        self.stopped = True

    async def ended(self) -> str:
        return await asyncio.shield(self._death)
