"""Completions of prompts in tokens, and how fast they come."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import httpx


class Streamed(Protocol):
    """A stream: when its first and its last token came, and how many there were."""

    first: float
    last: float
    tokens: int


@dataclass
class Timing:
    """Of one streamed answer, in seconds on the clock of `perf_counter`."""

    start: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    cached: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def to_first(self) -> float:
        return self.first - self.start


async def complete(client: httpx.AsyncClient, model: str, prompt: list[int], tokens: int) -> Timing:
    """One streamed completion of exactly `tokens` tokens."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {"0": -100},
    }
    timing = Timing(perf_counter())
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.is_error:
            raise RuntimeError((await response.aread()).decode())
        timing.headers = dict(response.headers)
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            now = perf_counter()
            timing.first = timing.first or now
            timing.last = now
            if usage := event.get("usage"):
                timing.tokens = usage["completion_tokens"]
                timing.cached = usage["prompt_tokens_details"]["cached_tokens"]
    return timing


async def decode_rate(client: httpx.AsyncClient, model: str, streams: int, tokens: int) -> float:
    """Tokens per second of all streams together, while all of them run."""
    prompts = [_prompt(8) for _ in range(streams)]
    return rate(await asyncio.gather(*(complete(client, model, prompt, tokens) for prompt in prompts)))


def rate(timings: Sequence[Streamed]) -> float:
    """From the first token of the last to begin on, each stream's share of its tokens, until the last has ended."""
    begin = max(timing.first for timing in timings)
    end = max(timing.last for timing in timings)
    made = sum((t.tokens - 1) * (t.last - begin) / (t.last - t.first) for t in timings if t.last > begin)
    return made / (end - begin)


async def prefill_rate(client: httpx.AsyncClient, model: str, length: int) -> float:
    """Prompt tokens per second until the first token, of a prompt that nothing is known of."""
    timing = await complete(client, model, _prompt(length), 1)
    assert not timing.cached, "no prompt begins as another did"
    return length / timing.to_first


def _prompt(length: int) -> list[int]:
    return [random.randrange(1000, 20000) for _ in range(length)]
