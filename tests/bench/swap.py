"""From nothing, from parked and from ready to the first token: at the engine's door, and through the daemon."""

import math
import os
import tempfile
from pathlib import Path
from time import perf_counter

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.kept_states import KeptStates
from cortexd.engines.protocol import GenerationRequest, LoadProgress
from cortexd.engines.rwkv import RwkvEngine
from cortexd.wire import CacheLimits, Sampling, TextPrompt
from tests.bench.daemon import complete, daemon


class Host:
    """Implements `cortexd.engines.protocol.EngineHost`."""

    prefill_budget = 256

    def __init__(self, fork_server: ForkServer, cache: Path) -> None:
        self.cores = Cores(len(os.sched_getaffinity(0)))
        self.fork_server = fork_server
        self.cache = cache
        self.states = KeptStates(CacheLimits(), None)


async def swap_times(checkpoint: Path) -> dict[str, float]:
    """Milliseconds to the first token; the checkpoint is in the page cache, and the fork server is warm."""
    fork_server = ForkServer()
    worker = await fork_server.spawn()
    worker.socket.close()
    await worker.exited()
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as cache:
        host = Host(fork_server, Path(cache))
        times: dict[str, float] = {}
        engine = _engine(checkpoint, host)
        times["first load ever"] = await _timed(engine, start=True)
        while not list(Path(cache).glob("*.weights")):  # kept in the background
            await engine.ping()
        await engine.stop(10.0)
        engine = _engine(checkpoint, host)
        times["cold"] = await _timed(engine, start=True)
        times["ready"] = await _timed(engine)
        await engine.park()
        times["parked"] = await _timed(engine, resume=True)
        await engine.stop(10.0)
    await fork_server.close()
    return times


async def swaps_of_a_daemon(folder: Path, checkpoint: Path) -> dict[str, float]:
    """The same as a client sees it, with a budget for one of two models: A, B, A, B."""
    twin = checkpoint.with_stem(checkpoint.stem + "-twin")
    if not twin.exists():
        os.link(checkpoint, twin)
    names = checkpoint.stem, twin.stem
    budget = str(round(3 * checkpoint.stat().st_size))  # 16 bits on disk are 32 in memory
    times: dict[str, float] = {}
    for tier, parked in (("cold", "0"), ("parked", "1 GB")):
        settings = {"CORTEXD_MEMORY__CPU": budget, "CORTEXD_MEMORY__PARKED": parked}
        async with daemon(folder, **settings, CORTEXD_LIFECYCLE__KEEP_ALIVE="1h") as client:
            for name in (*names, *names, *names):
                timing = await complete(client, name, [1000, 1001, 1002, 1003], 8)
                key = f"{timing.headers.get('x-cortexd-tier', tier)} through the daemon"
                times[key] = min(times.get(key, math.inf), 1000 * timing.first)
            ready = await complete(client, names[1], [1000, 1001, 1002, 1003], 8)
            times["ready through the daemon"] = 1000 * ready.first
    twin.unlink()
    return times


def _engine(checkpoint: Path, host: Host) -> RwkvEngine:
    spec = ModelSpec(name=checkpoint.stem, source="file", path=str(checkpoint), size=checkpoint.stat().st_size)
    return RwkvEngine(spec, host)


async def _timed(engine: RwkvEngine, *, start: bool = False, resume: bool = False) -> float:
    began = perf_counter()
    if start:
        await engine.start(_no_report)
    if resume:
        await engine.resume(_no_report)
    request = GenerationRequest(prompt=TextPrompt("\n"), sampling=Sampling(temperature=0.0), max_tokens=1)
    async for _ in engine.generate(request):
        pass
    return 1000 * (perf_counter() - began)


def _no_report(progress: LoadProgress) -> None: ...
