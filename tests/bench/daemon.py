"""The real daemon as a process, and a client that times it."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx


@dataclass
class Timing:
    """Of one streamed answer, in seconds from the request."""

    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])


@contextlib.asynccontextmanager
async def daemon(models: Path, **environment: str) -> AsyncGenerator[httpx.AsyncClient]:
    """`cortexd serve` with these models, on a free port, until the block ends; what it keeps goes into the folder of the models."""
    places = {name: str(models / "home" / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    usual = {"CORTEXD_LIFECYCLE__KEEP_ALIVE": "-1", "CORTEXD_LIFECYCLE__RESTORE": "false"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cortexd", "serve", "--port", str(port), "--models", str(models), "--log-level", "warning",
        env={**os.environ, **places, **usual, **environment},
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == httpx.codes.OK:
                        break
                await asyncio.sleep(0.05)
            yield client
    finally:
        process.terminate()
        await process.wait()


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
    timing = Timing()
    start = perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        timing.headers = dict(response.headers)
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            now = perf_counter() - start
            timing.first = timing.first or now
            timing.last = now
            if event.get("usage"):
                timing.tokens = event["usage"]["completion_tokens"]
    return timing


async def load_ms(client: httpx.AsyncClient, model: str) -> tuple[float, float]:
    """Milliseconds of the load that the daemon tells, and of the first answer with it, on a model nobody has loaded."""
    start = perf_counter()
    body = {"model": model, "prompt": "\n", "max_tokens": 1, "temperature": 0}
    response = await client.post("/v1/completions", json=body)
    response.raise_for_status()
    return float(response.headers["x-cortexd-load-ms"]), 1000 * (perf_counter() - start)


async def decode_rate(client: httpx.AsyncClient, model: str, streams: int, tokens: int) -> float:
    """Tokens per second of all streams together, between the first and the last token of each."""
    prompts = [[1000 + 17 * i + j for j in range(8)] for i in range(streams)]
    timings = await asyncio.gather(*(complete(client, model, prompt, tokens) for prompt in prompts))
    window = max(t.last for t in timings) - min(t.first for t in timings)
    return sum(t.tokens - 1 for t in timings) / window


async def prefill_rate(client: httpx.AsyncClient, model: str, length: int) -> float:
    """Prompt tokens per second until the first token."""
    timing = await complete(client, model, [1000 + i % 5000 for i in range(length)], 1)
    return length / timing.first
