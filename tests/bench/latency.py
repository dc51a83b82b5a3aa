"""What the way through the daemon adds to a token: its age on arrival, less its age on arrival from the worker alone."""

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from time import monotonic_ns
from typing import cast

import msgspec
import uvloop

from cortexd import wire
from cortexd.catalogue.spec import ModelSpec
from cortexd.cli.server import bind, running
from cortexd.config.sources import Sources
from cortexd.daemon import Daemon
from cortexd.engines.fork_server import ForkServer, WorkerProcess
from cortexd.engines.protocol import EngineHost
from cortexd.engines.rwkv import RwkvEngine
from tests.bench.bench import Bench
from tests.bench.figures import Figures, percentile

TOKENS = 100  # of each stream
STREAMS = (1, 64)
Ages = list[float]  # milliseconds, of every token of every stream
Stream = Callable[[int], Awaitable[Ages]]  # one stream, from the server at this port


def spawn() -> tuple[int, socket.socket]:
    """A metronome: its process, and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.bench.metronome", str(theirs.fileno())]
        return subprocess.Popen(command, pass_fds=[theirs.fileno()]).pid, ours


class Metronomes:
    """In the place of `cortexd.engines.fork_server.ForkServer`."""

    async def spawn(self) -> WorkerProcess:
        worker = WorkerProcess(*spawn())
        worker.orphan()
        return worker


class Host:
    """What a metronome's engine needs of the daemon's."""

    def __init__(self, host: EngineHost) -> None:
        self.cores, self.prefill_budget, self.cache = host.cores, host.prefill_budget, None
        self.states, self.sessions = host.states, host.sessions
        self.tempo, self.queue_limit, self.gpus = host.tempo, host.queue_limit, host.gpus
        self.fork_server = cast("ForkServer", Metronomes())


class MetronomeEngine(RwkvEngine):
    def __init__(self, spec: ModelSpec, host: EngineHost) -> None:
        super().__init__(msgspec.structs.replace(spec, path="-"), Host(host))


async def serve(port: int) -> None:
    """The real daemon and server, with one more engine."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cortexd.toml"
        file.write_text('lifecycle.predict = false\n[[model]]\nname = "metronome"\nengine = "metronome"\n')
        daemon = Daemon(Sources(file=file))
        daemon._registry._factories["metronome"] = MetronomeEngine
        async with daemon, running(daemon, [bind("127.0.0.1", port)]):
            await asyncio.get_running_loop().create_future()


async def latency(bench: Bench) -> Figures:
    figures = Figures()
    for _ in range(bench.rounds):
        figures.note(await _added())
    return figures


async def _added() -> dict[str, float]:
    """Milliseconds: the median with one stream, and the 99th percentile with 64, beside that of a server that only sends."""
    async with _server("tests.bench.latency") as port:
        await _until_up(port, _served)
        alone = {streams: await _alone(streams) for streams in STREAMS}
        served = {streams: await _together(streams, port, _served) for streams in STREAMS}
    async with _server("tests.bench.bare") as port:
        await _until_up(port, _bare)
        bare = await _together(STREAMS[-1], port, _bare)
    return {
        "added latency, 1 stream, median ms": statistics.median(served[1]) - statistics.median(alone[1]),
        "added latency, 64 streams, p99 ms": percentile(served[64], 99) - percentile(alone[64], 99),
        "the same of a server that only sends, ms": percentile(bare, 99),
    }


@contextlib.asynccontextmanager
async def _server(module: str) -> AsyncGenerator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = await asyncio.create_subprocess_exec(sys.executable, "-m", module, str(port))
    try:
        yield port
    finally:
        server.terminate()
        await server.wait()


async def _until_up(port: int, stream: Stream) -> None:
    while True:
        with contextlib.suppress(OSError):
            await stream(port)
            return
        await asyncio.sleep(0.1)


async def _together(streams: int, port: int, stream: Stream) -> Ages:
    return [age for ages in await asyncio.gather(*(stream(port) for _ in range(streams))) for age in ages]


async def _bare(port: int) -> Ages:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ages = [_age((await reader.readline()).split()[0].decode()) for _ in range(TOKENS)]
    writer.close()
    return ages


async def _alone(streams: int) -> Ages:
    """Straight from the worker's socket."""
    _, sock = spawn()
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    for id in range(streams):
        prompt, sampling = wire.TextPrompt("-"), wire.Sampling()
        writer.write(wire.encode(wire.Generate(id=id, prompt=prompt, sampling=sampling, max_tokens=TOKENS)))
    frames, ages, left = wire.FrameReader(), Ages(), streams
    while left:
        for frame in frames.feed(await reader.read(65536)):
            step = wire.decode_report(frame)
            assert isinstance(step, wire.Step)
            ages += [_age(delta.text) for delta in step.deltas]
            left -= sum(delta.finish is not None for delta in step.deltas)
    writer.close()
    return ages


async def _served(port: int) -> Ages:
    """As a client sees it, with as little as possible of the client's own in it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = msgspec.json.encode({"model": "metronome", "prompt": "-", "max_tokens": TOKENS, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
    ages: Ages = []
    while b"data: [DONE]" not in (line := await reader.readline()):
        if not line:
            raise ConnectionError("the stream was cut off")
        if line.startswith(b"data: {"):
            text = msgspec.json.decode(line[6:])["choices"][0]["text"]
            ages += [_age(stamp) for stamp in text.split()]
    writer.close()
    return ages


def _age(stamp: str) -> float:
    return (monotonic_ns() - int(stamp)) / 1e6


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    uvloop.run(serve(int(sys.argv[1])))
