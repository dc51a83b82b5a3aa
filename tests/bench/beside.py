"""Streams that run while a long prompt is read: how long their readers wait for the next token, and how fast the prompt goes."""

import asyncio
import contextlib
import random
from itertools import pairwise
from time import perf_counter

from cortexd.rwkv.tokenizer import WorldTokenizer
from tests.bench.bench import Bench
from tests.bench.chats import WORDS, Server, asked, chat, events, ours, text_of
from tests.bench.daemon import RunningDaemon, daemon
from tests.bench.figures import Figures, percentile
from tests.bench.shapes import Shape

STREAMS = 4
PROMPT = 8192  # tokens, nearly
TARGET = 0.05  # seconds: `[engine] inter_token_target`
KIND = "bf16"
_ALONE = 2.0  # seconds in which the streams run alone
_ENDLESS = 30000  # tokens

Arrivals = list[float]  # of each token of a stream


async def beside(bench: Bench, shape: Shape) -> Figures:
    figures = Figures()
    settings = {"CORTEXD_ENGINE__STRATEGY": f"cpu {KIND}", "CORTEXD_ENGINE__INTER_TOKEN_TARGET": str(TARGET)}
    async with daemon(bench.folder, None, "", **settings) as running:
        await chat(ours(running.client, shape.name), [asked("hello")], 1)
        for _ in range(bench.rounds):
            await running.until_idle()
            figures.note(await _round(running, shape))
    return figures


def gaps(arrivals: Arrivals, begin: float, end: float) -> list[float]:
    """Seconds between two tokens one after the other, of which the second came in this time."""
    return [later - earlier for earlier, later in pairwise(arrivals) if begin < later <= end]


async def _round(running: RunningDaemon, shape: Shape) -> dict[str, float]:
    server, dice = ours(running.client, shape.name), random.Random()
    arrivals: list[Arrivals] = [[] for _ in range(STREAMS)]
    streams = [
        asyncio.create_task(_stream(server, word, times)) for word, times in zip(WORDS[:STREAMS], arrivals, strict=True)
    ]
    while min(map(len, arrivals)) < 2:
        await asyncio.wait(streams, timeout=0.05)
        _raise_what_went_wrong(streams)
    begin = perf_counter()
    await asyncio.wait(streams, timeout=_ALONE)
    asked_at = perf_counter()
    answer = await chat(server, [asked(text_of(dice, PROMPT))], 1)
    _raise_what_went_wrong(streams)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    alone = [gap for times in arrivals for gap in gaps(times, begin, asked_at)]
    waited = [gap for times in arrivals for gap in gaps(times, asked_at, answer.first)]
    what = f"{STREAMS} streams beside a prompt of {PROMPT // 1024} k tokens"
    return {
        f"{STREAMS} streams alone, {KIND}, between two tokens, p50 ms": 1000 * percentile(alone, 50),
        f"{what}, between two tokens, p50 / target of {1000 * TARGET:.0f} ms": percentile(waited, 50) / TARGET,
        f"{what}, between two tokens, p99 / target of {1000 * TARGET:.0f} ms": percentile(waited, 99) / TARGET,
        f"the prompt beside {STREAMS} streams, tok/s": answer.prompt_tokens / answer.to_first,
    }


async def _stream(server: Server, word: str, arrivals: Arrivals) -> None:
    """An answer of one word again and again, so that every token is text and has its time."""
    (token,) = WorldTokenizer().encode(f" {word}")
    bias = {"0": -100, str(token): 100}
    async with contextlib.aclosing(events(server, [asked(word)], _ENDLESS, logit_bias=bias)) as told:
        async for at, event in told:
            for choice in event["choices"]:
                arrivals += [at] * ((choice["delta"].get("content") or "").count(word))


def _raise_what_went_wrong(streams: list[asyncio.Task[None]]) -> None:
    for stream in streams:
        if stream.done():
            stream.result()
            raise RuntimeError("a stream has ended before the prompt was read")
