"""Our own engine, as the daemon sees it: one worker process and the socket to it."""

import asyncio
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from cortexd import wire
from cortexd.catalogue.spec import ModelSpec
from cortexd.checkpoints.identity import identity_of
from cortexd.engines.fork_server import WorkerProcess
from cortexd.engines.protocol import EngineFacts, EngineHost, GenerationRequest, LoadProgress, Suspension
from cortexd.engines.rwkv_devices import footprints, problem_of, settled
from cortexd.engines.rwkv_footprint import PROCESS_BYTES
from cortexd.engines.rwkv_generation import RwkvGeneration, RwkvSuspension
from cortexd.errors import BadRequest, ContextExceeded, CortexdError, EngineDied, LoadFailed, ModelFault, QueueFull

T = TypeVar("T")

_PATIENCE = 1.0  # seconds until somebody may try again for whom there was no place in the queue
_WORTH_THREADS = 64 * 2**20  # bytes of weights below which threads wait for each other longer than they compute


class RwkvEngine:
    """Implements `cortexd.engines.protocol.Engine`."""

    def __init__(self, spec: ModelSpec, host: EngineHost) -> None:
        self._spec = spec
        self._host = host
        self._worker: WorkerProcess | None = None
        self._connection: _Connection | None = None
        self._generations: dict[int, RwkvGeneration] = {}
        self._ids = itertools.count(1)
        self._pongs: dict[int, asyncio.Future[wire.Pong]] = {}
        self._loading: asyncio.Future[wire.Loaded] | None = None
        self._parking: asyncio.Future[None] | None = None
        self._suspending: asyncio.Future[RwkvSuspension] | None = None
        self._suspension = RwkvSuspension()  # what has been saved until now
        self._report: Callable[[LoadProgress], None] | None = None
        self._lost = asyncio.Event()
        self._stopping = False
        self._grant = self._compute_with  # one bound method, so that it is known again
        self._rule = self._send  # and this

    @classmethod
    def footprint(cls, spec: ModelSpec, host: EngineHost) -> dict[str, int]:
        return footprints(spec, host.gpus, host.prefill_budget, host.states.room)

    @classmethod
    def problem(cls, spec: ModelSpec) -> str | None:
        if (problem := problem_of(spec.strategy)) is not None:
            return problem
        if spec.template not in wire.TEMPLATES:
            return f"The template {spec.template!r} is not known: use {wire.one_of(wire.TEMPLATES)}."
        return None

    @property
    def pid(self) -> int:
        """Of its worker; 0 while there is none."""
        return self._worker.pid if self._worker is not None else 0

    async def start(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        if not self._spec.path:
            raise LoadFailed(self._spec.problem or f"{self._spec.name} has no checkpoint: set its path.")
        await asyncio.to_thread(self._check_unchanged)
        report(LoadProgress("starting", 0.0))
        self._worker = await self._host.fork_server.spawn()
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_unix_connection(
            lambda: _Connection(self._receive, self._disconnected), sock=self._worker.socket
        )
        self._host.states.join(self._rule)
        self._host.tempo.join(self._rule)
        self._host.sessions.join(self._rule)
        return await self._load(self._load_command(), report)

    async def park(self) -> None:
        self._check_alive()
        self._parking = asyncio.get_running_loop().create_future()
        self._send(wire.Park())
        await self._parking

    async def resume(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        if self._lost.is_set():
            raise LoadFailed(f"The process that held {self._spec.name} ended: {await self._end_of_worker()}.")
        return await self._load(wire.Resume(), report)

    async def suspend(self) -> RwkvSuspension:
        self._check_alive()
        self._suspending = asyncio.get_running_loop().create_future()
        self._send(wire.Suspend())
        return await self._suspending

    def adopt(self, suspension: Suspension) -> None:
        assert isinstance(suspension, RwkvSuspension), "only what an engine of this kind has saved"
        for generation, parts in suspension.release():
            id = next(self._ids)
            if self._admit(id, generation):
                for number, part in enumerate(parts, 1):
                    self._send(wire.Adopt(id, part, last=number == len(parts)))

    def pids(self) -> list[int]:
        return [] if self._worker is None or self._lost.is_set() else [self._worker.pid]

    async def probe(self) -> None:
        sampling = wire.Sampling(temperature=0.0)
        request = GenerationRequest(prompt=wire.TextPrompt("\n"), sampling=sampling, max_tokens=1)
        generation = self.generate(request)
        try:
            async for _ in generation:
                pass
        except CortexdError as error:
            raise LoadFailed(f"{self._spec.name} was loaded but made no token: {error.message}") from error
        finally:
            generation.cancel()

    def generate(self, request: GenerationRequest) -> RwkvGeneration:
        id = next(self._ids)
        generation = RwkvGeneration(id, self._cancel)
        if len(self._generations) >= self._spec.max_concurrency + self._host.queue_limit:
            generation.fail(QueueFull(retry_after=_PATIENCE))
        elif self._admit(id, generation):
            self._send(
                wire.Generate(
                    id=id,
                    prompt=request.prompt,
                    sampling=request.sampling,
                    max_tokens=request.max_tokens,
                    stop=request.stop,
                    echo=request.echo,
                    state=request.state,
                    tenant=request.tenant,
                    priority=request.priority,
                    session=request.session,
                )
            )
        return generation

    async def ping(self) -> None:
        await self.ask_load()

    async def ask_load(self) -> wire.Pong:
        """How many sequences run and wait, as the worker's loop itself says."""
        self._check_alive()
        nonce = next(self._ids)
        self._pongs[nonce] = asyncio.get_running_loop().create_future()
        try:
            self._send(wire.Ping(nonce))
            return await self._pongs[nonce]
        finally:
            del self._pongs[nonce]

    async def stop(self, grace: float) -> None:
        self._stopping = True
        if self._worker is None:
            return
        self._send(wire.Shutdown())
        try:
            async with asyncio.timeout(grace):
                await self._worker.exited()
        except TimeoutError:
            self._worker.kill()
            await self._worker.exited()
        if self._connection is not None:
            self._connection.close()
            await self._lost.wait()
        else:
            self._worker.socket.close()

    async def ended(self) -> str:
        await self._lost.wait()
        if self._stopping or self._worker is None:
            await asyncio.get_running_loop().create_future()
        return await self._end_of_worker()

    async def _load(self, command: wire.Load | wire.Resume, report: Callable[[LoadProgress], None]) -> EngineFacts:
        self._report = report
        self._loading = asyncio.get_running_loop().create_future()
        self._send(command)
        loaded = await self._loading
        return EngineFacts(
            description=f"RWKV-{loaded.version}, {loaded.layers} x {loaded.width}, {loaded.strategy}",
            context=loaded.context,
            loaded_bytes=loaded.weight_bytes,
            thinks=loaded.thinks,
            parks=True,
            parked_bytes=PROCESS_BYTES,
            suspends=True,
            notices=loaded.notices,
        )

    def _load_command(self) -> wire.Load:
        spec = self._spec
        return wire.Load(
            path=spec.path,
            strategy=settled(spec, self._host.gpus, self._host.prefill_budget).strategy,
            template=spec.template,
            threads=self._most_threads(),
            slots=spec.max_concurrency,
            context=spec.limits.prompt_tokens,
            prefill_budget=self._host.prefill_budget,
            step_target=self._host.tempo.target,
            cache=str(self._host.cache or ""),
            states=str(self._host.states.directory or ""),
            sessions=str(self._host.sessions.directory or ""),
            model=spec.name,
            kept=self._host.states.limits,
        )

    def _check_unchanged(self) -> None:
        """What was listed is what is loaded: another file under the same name has other limits, and other answers."""
        spec = self._spec
        try:
            changed = spec.weights and identity_of(Path(spec.path)) != spec.weights
        except OSError as error:
            raise LoadFailed(f"{spec.path} cannot be read ({error.strerror}).") from error
        if changed:
            raise LoadFailed(f"{spec.path} has changed since it was listed; ask again.", retry_after=1.0)

    def _most_threads(self) -> int:
        return self._spec.threads or (1 if self._spec.size < _WORTH_THREADS else self._host.cores.count)

    def _compute_with(self, threads: int) -> None:
        self._send(wire.Threads(min(threads, self._most_threads())))

    def _check_alive(self) -> None:
        if self._lost.is_set():
            raise EngineDied

    def _admit(self, id: int, generation: RwkvGeneration) -> bool:
        """It is this engine's from now on, unless that has ended."""
        if self._lost.is_set():
            generation.fail(EngineDied())
            return False
        if not self._generations:
            self._host.cores.begin(self._grant)
        generation.belong(id, self._cancel)
        self._generations[id] = generation
        return True

    def _forget(self, id: int) -> RwkvGeneration | None:
        """The generation with this id, which is one no more; without any, the cores are for others."""
        generation = self._generations.pop(id, None)
        if not self._generations:
            self._host.cores.end(self._grant)
        return generation

    def _send(self, command: wire.Command) -> None:
        if self._connection is not None:
            self._connection.send(wire.encode(command))

    def _cancel(self, id: int) -> None:
        if self._forget(id) is not None:
            self._send(wire.Cancel(id))

    def _receive(self, report: wire.Report) -> None:
        match report:
            case wire.Step(deltas, rejected):
                for delta in deltas:
                    self._deliver(delta)
                for rejection in rejected:
                    self._reject(rejection)
            case wire.Progress(done, total):
                if self._report is not None:
                    self._report(LoadProgress("reading", done / max(total, 1)))
            case wire.Pong():
                _settle(self._pongs.get(report.nonce), report)
            case wire.Loaded():
                self._settle_load(report)
            case wire.LoadRefused(message):
                self._settle_load(LoadFailed(message))
            case wire.Parked():
                _settle(self._parking, None)
            case wire.Saved(id, part):
                self._save(id, part)
            case wire.Suspended():
                self._hand_over_suspension()
            case wire.SessionKept(tenant, name, problem):
                if problem:
                    self._host.sessions.failed(tenant, name, self._spec.name, problem)
                else:
                    self._host.sessions.fit()

    def _deliver(self, delta: wire.Delta) -> None:
        # Cancelled while this delta was under way: nobody is there to take it.
        if (generation := self._generations.get(delta.id)) is None:
            return
        if delta.finish is not None:
            self._forget(delta.id)
        generation.push(delta)

    def _reject(self, rejection: wire.Rejected) -> None:
        if (generation := self._forget(rejection.id)) is not None:
            generation.fail(_error_of(rejection))

    def _save(self, id: int, part: bytes) -> None:
        if (generation := self._forget(id)) is not None:
            self._suspension.take_in(id, generation)
        self._suspension.add(id, part)

    def _hand_over_suspension(self) -> None:
        suspension, self._suspension = self._suspension, RwkvSuspension()
        if self._suspending is not None and not self._suspending.done():
            self._suspending.set_result(suspension)
        else:  # whoever wanted it has given up
            suspension.fail(EngineDied())

    def _settle_load(self, outcome: wire.Loaded | LoadFailed) -> None:
        if self._loading is None or self._loading.done():
            return
        if isinstance(outcome, wire.Loaded):
            self._loading.set_result(outcome)
        else:
            self._loading.set_exception(outcome)

    def _disconnected(self) -> None:
        self._lost.set()
        for generation in self._generations.values():
            generation.fail(EngineDied(f"{self._spec.name} was unloaded.") if self._stopping else EngineDied())
        self._generations.clear()
        self._host.cores.end(self._grant)
        self._host.states.leave(self._rule)
        self._host.tempo.leave(self._rule)
        self._host.sessions.leave(self._rule)
        self._suspension.fail(EngineDied())
        for waiting in (*self._pongs.values(), self._parking, self._suspending):
            if waiting is not None and not waiting.done():
                waiting.set_exception(EngineDied())
        if self._loading is not None and not self._loading.done():
            self._loading.cancel() if self._stopping else self._explain_failed_load()

    def _explain_failed_load(self) -> None:
        async def explain() -> None:
            reason = await self._end_of_worker()
            self._settle_load(LoadFailed(f"The process that was loading {self._spec.name} ended: {reason}."))

        self._explaining = asyncio.create_task(explain(), name=f"explain failed load of {self._spec.name}")

    async def _end_of_worker(self) -> str:
        assert self._worker is not None
        self._worker.kill()  # a worker without its socket is of no use to anybody
        status = await self._worker.exited()
        if status is None:
            return "it ended for an unknown reason"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return f"killed by {signal.Signals(number).name}"
        return f"exit status {os.WEXITSTATUS(status)}"


class _Connection(asyncio.Protocol):
    """The daemon's end of a worker's socket."""

    def __init__(self, received: Callable[[wire.Report], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._frames = wire.FrameReader()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's have another base class

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._received(wire.decode_report(frame))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        self._lost()

    def send(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _settle(waiting: asyncio.Future[T] | None, result: T) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(result)


def _error_of(rejection: wire.Rejected) -> CortexdError:
    if rejection.code == ModelFault.code:
        return ModelFault(rejection.message)
    kind = ContextExceeded if rejection.code == ContextExceeded.code else BadRequest
    return kind(rejection.message, param=rejection.param)
