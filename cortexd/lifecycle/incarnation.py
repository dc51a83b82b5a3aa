"""One life of one engine: the tasks that wait for it, so that the supervisor never has to."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from cortexd.engines.protocol import Engine, EngineFacts, LoadProgress
from cortexd.errors import CortexdError, EngineDied
from cortexd.lifecycle import tidings as told
from cortexd.lifecycle.policy import Policy
from cortexd.memory.process import Usage

_Report = Callable[[LoadProgress], None]


class Gauge(Protocol):
    """Looks at processes and at the machine. Slow: called in a thread."""

    def measure(self, pids: list[int]) -> Usage:
        """What these processes hold."""
        ...

    def oom_kills(self) -> int:
        """How many processes the kernel has ended for want of memory, since some moment."""
        ...


class Incarnation:
    """Implements `cortexd.lifecycle.managed_model.Run` over an engine. It tells of an end only when all is cleared away."""

    def __init__(self, make_engine: Callable[[], Engine], tell: told.Tell, policy: Policy, gauge: Gauge) -> None:
        self._make_engine = make_engine
        self._tell = tell
        self._policy = policy
        self._gauge = gauge
        self._engine: Engine | None = None
        self._oom_kills = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "nothing is leased before it is loaded"
        return self._engine

    def pids(self) -> list[int]:
        return self._engine.pids() if self._engine is not None else []

    def start(self) -> None:
        try:
            self._engine = self._make_engine()
        except CortexdError as error:
            self._tell(told.LoadBroke(error))
        except Exception as error:  # a plug-in's
            self._tell(told.Bug(error))
        else:
            self._go(self._live)

    def park(self) -> None:
        self._go(self._park)

    def resume(self) -> None:
        self._go(lambda: self._load(self.engine.resume))

    def suspend(self) -> None:
        self._go(self._suspend)

    def stop(self, grace: float) -> None:
        given_up = self._give_up_all()
        self._go(lambda: self._end(given_up, grace, told.Stopped()))

    def kill(self, reason: str, out_of_memory: bool = False) -> None:
        given_up = self._give_up_all()
        self._go(lambda: self._end(given_up, 0.0, told.Ended(reason, out_of_memory)))

    async def _live(self) -> None:
        if await self._load(self.engine.start):
            await self._watch()

    async def _load(self, load: Callable[[_Report], Awaitable[EngineFacts]]) -> bool:
        """Whether the engine has made a token."""
        self._oom_kills = await asyncio.to_thread(self._gauge.oom_kills)
        try:
            facts = await load(lambda progress: self._tell(told.Progressed(progress.phase, progress.fraction)))
            self._tell(told.Loaded(facts))
            await self.engine.probe()
        except CortexdError as error:
            self._give_up_others()
            await self.engine.stop(0.0)
            if await self._was_out_of_memory():
                self._tell(told.Ended("the machine ran out of memory", out_of_memory=True))
            else:
                self._tell(told.LoadBroke(error))
            return False
        self._tell(told.Probed())
        await self._measure()
        return True

    async def _park(self) -> None:
        try:
            await self.engine.park()
        except EngineDied:
            return  # `_watch` tells of it
        except CortexdError as error:
            await self._bury(error.message)
            return
        usage = await self._measured()
        self._tell(told.Parked(usage.resident))

    async def _suspend(self) -> None:
        try:
            suspension = await self.engine.suspend()
        except EngineDied:
            return  # `_watch` tells of it
        except CortexdError as error:
            await self._bury(error.message)
            return
        self._tell(told.Suspended(suspension))

    async def _watch(self) -> None:
        """Until the engine is of no more use: it has ended, or it does not answer any more."""
        ended = asyncio.ensure_future(self.engine.ended())
        try:
            while True:
                await asyncio.wait([ended], timeout=self._policy.ping_interval)
                if ended.done():
                    break
                deadline = self._policy.ping_deadline
                try:
                    async with asyncio.timeout(deadline):
                        await self.engine.ping()
                except TimeoutError:
                    await self._bury(f"it did not answer for {deadline:g} s")
                    return
                except CortexdError:
                    break
                await self._measure()
            await self._bury(await ended)
        finally:
            ended.cancel()

    async def _bury(self, reason: str) -> None:
        self._give_up_others()
        await self.engine.stop(0.0)
        self._tell(told.Ended(reason, await self._was_out_of_memory()))

    async def _end(self, given_up: set[asyncio.Task[None]], grace: float, news: told.Stopped | told.Ended) -> None:
        if given_up:
            await asyncio.wait(given_up)
        if self._engine is not None:
            await self._engine.stop(grace)
        self._tell(news)

    def _give_up_all(self) -> set[asyncio.Task[None]]:
        given_up = set(self._tasks)
        for task in given_up:
            task.cancel()
        return given_up

    def _give_up_others(self) -> None:
        """The task that clears up is the only one from here on."""
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _measure(self) -> None:
        usage = await self._measured()
        if any(usage.resident.values()):  # nothing is held by what has just ended
            self._tell(told.Measured(usage.resident, usage.mapped))
        self._oom_kills = await asyncio.to_thread(self._gauge.oom_kills)

    async def _measured(self) -> Usage:
        return await asyncio.to_thread(self._gauge.measure, self.engine.pids())

    async def _was_out_of_memory(self) -> bool:
        return await asyncio.to_thread(self._gauge.oom_kills) > self._oom_kills

    def _go(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        task = asyncio.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            await work()
        except Exception as error:  # whatever it is, nobody may be left waiting for a task that is no more
            if self._engine is not None:
                await self._engine.stop(0.0)
            self._tell(told.Bug(error))
