"""Proof of life: a model that needs nothing is asked for, loaded, used and unloaded, through the same queue as all others."""

import asyncio
import logging
from collections.abc import Callable

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import EngineFacts, EngineHost, Generation, GenerationRequest, LoadProgress, Suspension
from cortexd.errors import CortexdError, EngineDied
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.supervisor import Supervisor

_log = logging.getLogger("cortexd.lifecycle")

SYNTHETIC = ModelSpec(name="(synthetic)", source="synthetic", engine="null", keep_alive=0.0)
_MISSED = 3  # in a row, from which on the daemon counts as hung


class NullEngine:
    """Implements `cortexd.engines.protocol.Engine`: it is ready at once and can do nothing."""

    @classmethod
    def footprint(cls, spec: ModelSpec, host: EngineHost) -> dict[str, int]:  # noqa: ARG003
        return {}

    @classmethod
    def problem(cls, spec: ModelSpec) -> str | None:  # noqa: ARG003
        return None

    async def start(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        report(LoadProgress("nothing", 1.0))
        return EngineFacts(description="null", context=0, loaded_bytes=0)

    async def probe(self) -> None:
        pass

    def generate(self, request: GenerationRequest) -> Generation:
        raise NotImplementedError("nobody asks the synthetic model for text")

    async def park(self) -> None:
        raise NotImplementedError("its facts do not say `parks`")

    async def resume(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        raise NotImplementedError("its facts do not say `parks`")

    async def suspend(self) -> Suspension:
        raise EngineDied

    def adopt(self, suspension: Suspension) -> None:
        raise NotImplementedError("its facts do not say `suspends`")

    def pids(self) -> list[int]:
        return []

    async def ping(self) -> None:
        pass

    async def stop(self, grace: float) -> None:
        pass

    async def ended(self) -> str:
        return await asyncio.get_running_loop().create_future()


class Liveness:
    """`run` is its one task: a transaction every `interval` seconds, which misses if it takes longer than `patience` seconds."""

    def __init__(self, supervisor: Supervisor, interval: float = 10.0, patience: float = 10.0) -> None:
        self._supervisor = supervisor
        self._interval = interval
        self._patience = patience
        self._missed = 0

    @property
    def alive(self) -> bool:
        return self._missed < _MISSED

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.transact()
            await asyncio.sleep(self._interval)

    async def transact(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                async with self._supervisor.lease(SYNTHETIC, owner="liveness", priority=Priority.ADMIN) as lease:
                    await lease.engine.ping()
        except (TimeoutError, CortexdError) as error:
            self._missed += 1
            if self._missed == _MISSED:
                graph = "; ".join(self._supervisor.view.wait_graph()) or "nobody waits for anything"
                _log.error("%d synthetic transactions failed in a row (%s). %s", _MISSED, error or "too slow", graph)
        else:
            self._missed = 0
