import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

Start = Callable[..., AbstractAsyncContextManager["RunningDaemon"]]


@dataclass
class RunningDaemon:
    """`cortexd serve` as a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    client: httpx.AsyncClient

    async def chat(self, text: str, model: str = "demo", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def models(self) -> dict[str, dict[str, Any]]:
        data = (await self.client.get("/v1/models")).json()["data"]
        return {model["id"]: model["cortexd"] for model in data}

    def processes(self) -> list[psutil.Process]:
        """The daemon's fork server and workers."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.asynccontextmanager
async def running_daemon(models: Path, **environment: str) -> AsyncGenerator[RunningDaemon]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cortexd", "serve", "--port", str(port), "--models", str(models),
        env={**os.environ, **environment}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"listening" not in await process.stderr.readline():
            pass
    drain = asyncio.create_task(process.stderr.read())
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
            yield RunningDaemon(process, url, client)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
            await drain


@pytest.fixture
def start() -> Start:
    return running_daemon
