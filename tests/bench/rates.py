"""Decoding and reading prompts, beside the floor of the same round and the official package."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.bench import machine
from tests.bench.bench import Bench
from tests.bench.completions import complete, decode_rate, prefill_rate
from tests.bench.daemon import RunningDaemon, daemon, strategies
from tests.bench.figures import Figures
from tests.bench.floor import floor_rate
from tests.bench.package import Package
from tests.bench.shapes import Shape

STREAMS = (1, 4, 8, 16, 32)
PROMPTS = (128, 512, 2048)
KINDS = ("bf16", "int8", "int4")
PACKAGE = "rwkv package fp32"
_DECODED = 32  # tokens of each stream
_PROMPT = 512  # of the package
_ALL = [*KINDS, "fp32"]


async def decode(bench: Bench, shape: Shape) -> Figures:
    """Each rate right after the bandwidth that its floor follows from."""
    figures = Figures()
    async with _both(bench, shape) as (running, package):
        for _ in range(bench.rounds):
            for streams in STREAMS:
                bandwidth = machine.read_bandwidth(bench.threads)
                figures["read bandwidth GB/s"].append(bandwidth / 1e9)
                for kind in KINDS:
                    rate = await decode_rate(running.client, f"{shape.name}-{kind}", streams, _DECODED)
                    floor = floor_rate(shape, kind, streams, bandwidth)
                    name = decode_name(kind, streams)
                    figures.note({f"{name}, tok/s": rate, f"{name}, floor": floor, f"{name} / floor": rate / floor})
            if package.there:
                figures.note(await _beside(package, running, shape))
    return figures


def decode_name(kind: str, streams: int) -> str:
    return f"decode {kind} × {streams}"


async def prefill(bench: Bench, shape: Shape) -> Figures:
    figures = Figures()
    async with _both(bench, shape) as (running, package):
        for _ in range(bench.rounds):
            for length in PROMPTS:
                for kind in KINDS:
                    await running.until_idle()
                    rate = await prefill_rate(running.client, f"{shape.name}-{kind}", length)
                    figures[f"prefill {kind} {length}, tok/s"].append(rate)
            if package.there:
                await running.until_idle()
                own = await prefill_rate(running.client, f"{shape.name}-fp32", _PROMPT)
                theirs = await package.ask("prefill", _PROMPT)
                figures.note(_ratio(f"prefill fp32 {_PROMPT}", own, theirs))
    return figures


async def _beside(package: Package, running: RunningDaemon, shape: Shape) -> dict[str, float]:
    own = await decode_rate(running.client, f"{shape.name}-fp32", 1, _DECODED)
    return _ratio(decode_name("fp32", 1), own, await package.ask("decode", _DECODED))


def _ratio(name: str, own: float, theirs: float) -> dict[str, float]:
    return {f"{name}, tok/s": own, f"{name}, {PACKAGE}, tok/s": theirs, f"{name} / {PACKAGE}": own / theirs}


@asynccontextmanager
async def _both(bench: Bench, shape: Shape) -> AsyncGenerator[tuple[RunningDaemon, Package]]:
    """A daemon that has loaded the shape in all kinds, and the package."""
    async with (
        daemon(bench.folder, configuration=strategies(shape.name, _ALL)) as running,
        Package(shape.checkpoint(bench.folder), bench.threads) as package,
    ):
        for kind in _ALL:
            await complete(running.client, f"{shape.name}-{kind}", [1000], 2)
        await running.until_idle()
        yield running, package
