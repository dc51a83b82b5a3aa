"""From nothing, from parked and from ready to the first token: at the engine's door, and through the daemon."""

import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from types import MappingProxyType

import httpx

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.kept_states import KeptStates
from cortexd.engines.protocol import GenerationRequest, LoadProgress
from cortexd.engines.rwkv import RwkvEngine
from cortexd.engines.sessions import Sessions
from cortexd.engines.tempo import Tempo
from cortexd.wire import CacheLimits, Sampling, TextPrompt
from tests.bench.bench import Bench
from tests.bench.completions import complete
from tests.bench.daemon import daemon
from tests.bench.figures import Figures
from tests.bench.shapes import Shape


class Host:
    """Implements `cortexd.engines.protocol.EngineHost`."""

    prefill_budget = 256
    queue_limit = 1024
    gpus: Mapping[str, int] = MappingProxyType({})

    def __init__(self, fork_server: ForkServer, cache: Path) -> None:
        self.cores = Cores(len(os.sched_getaffinity(0)))
        self.tempo = Tempo(0.05)
        self.sessions = Sessions(None, lambda event: None)
        self.fork_server = fork_server
        self.cache = cache
        self.states = KeptStates(CacheLimits(), None)


async def swap(bench: Bench, shape: Shape) -> Figures:
    """Milliseconds to the first token, with the checkpoint in the page cache."""
    figures = Figures()
    checkpoint = shape.checkpoint(bench.folder)
    for _ in range(bench.rounds):
        for times in (await _of_an_engine(checkpoint), await _of_a_daemon(bench.folder, checkpoint)):
            figures.note({f"swap: {tier} to first token, ms": taken for tier, taken in times.items()})
    return figures


async def _of_an_engine(checkpoint: Path) -> dict[str, float]:
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


async def _of_a_daemon(folder: Path, checkpoint: Path) -> dict[str, float]:
    """The same as a client sees it, with a budget for one of two models: A, B, A, B."""
    twin = checkpoint.with_stem(checkpoint.stem + "-twin")
    twin.unlink(missing_ok=True)
    os.link(checkpoint, twin)
    settings = {
        "CORTEXD_MEMORY__CPU": str(round(1.85 * checkpoint.stat().st_size)),
        "CORTEXD_CACHE__ENABLED": "false",  # the states that a model may keep are counted before its first load
        "CORTEXD_ENGINE__MAX_CONCURRENCY": "1",  # and so are those of its sequences
        "CORTEXD_LIFECYCLE__KEEP_ALIVE": "1h",
    }
    times: dict[str, list[float]] = defaultdict(list)
    try:
        for parked in ("0", "1 GB"):
            async with daemon(folder, None, "", **settings, CORTEXD_MEMORY__PARKED=parked) as running:
                await _swap(running.client, (checkpoint.stem, twin.stem), times)
    finally:
        twin.unlink()
    return {f"{state} through the daemon": statistics.median(taken) for state, taken in times.items()}


async def _swap(client: httpx.AsyncClient, names: tuple[str, str], times: dict[str, list[float]]) -> None:
    """Note milliseconds by what the model was when it was asked; not of the first loads ever, which convert the weights."""
    for number, name in enumerate((*names * 3, names[1])):
        state = (await client.get(f"/admin/models/{name}")).json()["status"]["state"]
        timing = await complete(client, name, [1000, 1001, 1002, 1003], 8)
        if number >= len(names):
            times[state].append(1000 * timing.to_first)


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
